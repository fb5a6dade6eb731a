"""Trains the pair: text encoders beside the VAE, then scenes for the UNets, then decoder beside refiner, then the base.

Two processes of one thread run at a time, each on a stage of its own or, for the base, on half of each batch: on two
cores that is half again as fast as one process of two threads. Every stage resumes from its checkpoint; its weights are
written when it ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import distributed
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from imagegen_server import shapes
from imagegen_server.shapes.tokenizer import build_tokenizer
from imagegen_server.shapes.train import corpus, files, preview, text, unet, vae
from imagegen_server.shapes.train.loop import rank
from imagegen_server.shapes.train.text import Encoders

STEPS = {"text": 800, "vae": 3600, "decoder": 1000, "base": 9000, "refiner": 3600}
"""Optimizer steps of each stage: just under two hours on two cores that multiply matrices at 60 GFLOP/s each."""
LONG_STEPS = STEPS | {"base": 12600, "refiner": 7200}
"""With --long: about three hours there. So many the shipped pair's UNets had."""
CORPORA = {"native-1": (128, 4000), "native-2": (128, 4000), "small": (64, 2500)}
"""Side in pixels and number of scenes of each part of the corpus."""
_ORDER = (
    (("text",), ("vae",)),
    (("native-1",), ("native-2", "small")),
    (("decoder",), ("refiner",)),
    (("base",),),
)
"""Groups, one after the other; of each group up to two chains of stages beside each other."""
_PROCESSES = {"base": 2}
"""Processes that share a stage's steps on a CPU; 1 where it is not said."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Place:
    """Where a run reads and writes."""

    pair: Path
    """The pair's directory."""
    work: Path
    """Checkpoints and corpora."""
    device: str
    steps: Mapping[str, int]
    """Of each stage that is trained."""
    batches: int = 4
    """Of 32 images, by which a VAE is judged; the projection of previews is fitted to six times as many."""

    def checkpoint(self, stage: str) -> Path:
        """Returns the file that a stage resumes from."""
        return self.work / f"{stage}.pt"

    def encoders(self) -> Encoders:
        """Returns the trained text encoders."""
        return Encoders(
            first=self._load(CLIPTextModel, "text_encoder"),
            second=self._load(CLIPTextModelWithProjection, "text_encoder_2"),
            tokenizer=build_tokenizer(),
        )

    def vae(self) -> Any:
        """Returns the trained VAE."""
        return self._load(AutoencoderKL, "vae")

    def _load(self, kind: Any, component: str) -> Any:
        return kind.from_pretrained(self.pair / "base" / component).to(self.device)  # in fp32, as configured

    def corpora(self) -> list[corpus.Latents]:
        """Returns the scenes: the native size, then the small one."""
        native = corpus.load(self.work / "native-1.pt", self.work / "native-2.pt", device=self.device)
        return [native, corpus.load(self.work / "small.pt", device=self.device)]


def train_text(place: Place) -> None:
    """Trains both text encoders."""
    encoders = files.encoders(place.pair, seed=1)
    encoders.first.to(place.device)
    encoders.second.to(place.device)
    right = text.train(encoders, place.steps["text"], place.checkpoint("text"), place.device)
    print(f"the pooled embedding tells everything of {right:.2%} of new prompts")
    files.save(encoders.first, place.pair, "base", "text_encoder")
    files.save(encoders.second, place.pair, "base", "text_encoder_2")


def train_vae(place: Place) -> None:
    """Trains the VAE, and measures the latents."""
    model: Any = files.module(place.pair, "base", "vae", seed=2)
    vae.initialise(model)
    model.to(place.device)
    vae.train(model, place.steps["vae"], place.checkpoint("vae"), place.device)
    _judge(place, model)
    factor = round(1 / vae.spread(model, place.device, batches=place.batches), 4)
    model.register_to_config(scaling_factor=factor)
    files.set_scaling_factor(place.pair, factor)
    files.save(model, place.pair, "base", "vae")
    fitted = preview.fit(model, place.pair / shapes.PREVIEW.name, place.device, batches=6 * place.batches)
    print(f"previews are {fitted:.1f} dB from small pictures")


def train_decoder(place: Place) -> None:
    """Trains the VAE's decoder on while its encoder stays as it is."""
    model = place.vae()
    vae.train_decoder(model, place.steps["decoder"], place.checkpoint("decoder"), place.device)
    _judge(place, model)
    files.save(model, place.pair, "base", "vae")


def _judge(place: Place, model: Any) -> None:
    print(f"a round trip through the VAE keeps {vae.psnr(model, place.device, batches=place.batches):.1f} dB")


def make_corpus(place: Place, name: str) -> None:
    """Draws and encodes one part of the corpus."""
    side, scenes = CORPORA[name]
    corpus.make(
        place.vae(),
        place.encoders(),
        side=side,
        scenes=scenes,
        seed=list(CORPORA).index(name),
        file=place.work / f"{name}.pt",
        device=place.device,
    )


def train_unet(place: Place, half: str) -> None:
    """Trains the UNet of a half."""
    model = files.module(place.pair, half, "unet", seed={"base": 3, "refiner": 4}[half])
    model.to(place.device)
    train = unet.train_base if half == "base" else unet.train_refiner
    train(model, place.corpora(), place.encoders(), place.steps[half], place.checkpoint(half))
    if rank() == 0:
        files.save(model, place.pair, half, "unet")


def main() -> None:
    """Runs one stage, or all that are not done."""
    parser = argparse.ArgumentParser(prog="python -m imagegen_server.shapes.train", description=__doc__)
    parser.add_argument("--pair", type=Path, default=shapes.DIRECTORY, help="directory to write the pair to")
    parser.add_argument("--work", type=Path, default=Path("build/shapes"), help="directory for checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--long", action="store_true", help="train the UNets for longer, as the shipped ones were")
    parser.add_argument("--stage", choices=[*STEPS, *CORPORA], help="only this one")
    options = parser.parse_args()
    steps = LONG_STEPS if options.long else STEPS
    place = Place(pair=options.pair, work=options.work, device=options.device, steps=steps)
    place.work.mkdir(parents=True, exist_ok=True)
    if options.stage is None:
        files.prepare(place.pair)
        for group in _ORDER:
            with ThreadPoolExecutor(len(group)) as chains:
                list(chains.map(lambda chain: _run_chain(place, chain), group))
        return
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torch.distributed.run sets it
        distributed.init_process_group("gloo")
    run_stage(place, options.stage)
    if rank() == 0:
        (place.work / f"{options.stage}.done").touch()


def _done(place: Place, stage: str) -> bool:
    return (place.work / f"{stage}.done").exists()


def run_stage(place: Place, name: str) -> None:
    """Runs one stage in this process: a key of `STEPS` or of `CORPORA`."""
    if name in CORPORA:
        make_corpus(place, name)
    elif name in {"base", "refiner"}:
        train_unet(place, name)
    else:
        {"text": train_text, "vae": train_vae, "decoder": train_decoder}[name](place)


def _run_chain(place: Place, chain: tuple[str, ...]) -> None:
    """Runs those stages of a chain that are not done, each in a process; raises CalledProcessError if one fails."""
    for stage in chain:
        if not _done(place, stage):
            subprocess.run([*_launcher(stage, place.device), *sys.argv[1:], "--stage", stage], check=True)


def _launcher(stage: str, device: str) -> list[str]:
    module = ["-m", "imagegen_server.shapes.train"]
    processes = _PROCESSES.get(stage, 1) if device == "cpu" else 1
    if processes == 1:
        return [sys.executable, *module]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *together, *module]


if __name__ == "__main__":
    main()
