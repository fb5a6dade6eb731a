//! Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.
//!
//!     cargo run -- http://localhost:50051 "a red circle on a blue background" circle.png 7

mod generation;
mod refusal;

/// The stubs, as buf.gen.yaml has them generated. Some versions of the plugin write them to gen/imagegen/v1/.
mod pb {
    include!("../gen/imagegen.v1.rs");
}

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use pb::generate_image_response::Event;
use pb::image_gen_client::ImageGenClient;
use pb::{GenerateImageRequest, GenerateImageResponse};
use refusal::Refusal;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, prompt, file, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: URL PROMPT FILE [SEED]");
        return ExitCode::from(2);
    };
    let Ok(seed) = rest.first().map(|seed| seed.parse::<i64>()).transpose() else {
        eprintln!("SEED must be a whole number of 64 bits");
        return ExitCode::from(2);
    };
    let request = GenerateImageRequest { prompt: prompt.clone(), seed, ..Default::default() };
    tokio::select! {
        done = run(url, file, request) => match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                explain(error.as_ref());
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE, // dropping the call cancels it, and stops the device
    }
}

async fn run(url: &str, file: &str, request: GenerateImageRequest) -> Result<(), Box<dyn Error>> {
    let mut client = ImageGenClient::connect(url.to_owned()).await?;
    let done = generation::generate(&mut client, request, Duration::from_secs(300), 5, show).await?;
    let image = done.images.first().ok_or("no image came")?;
    std::fs::write(file, &image.data)?;
    println!("{}", image.header.sha256);
    Ok(())
}

fn show(response: &GenerateImageResponse) {
    match &response.event {
        Some(Event::Accepted(accepted)) => {
            let seed = accepted.plan.as_ref().map_or(0, |plan| plan.seed);
            eprintln!("accepted as {}, seed {seed}", response.request_id);
        }
        Some(Event::StepProgress(step)) => eprintln!(
            "{} {}/{}, {:.0} %",
            step.stage().as_str_name(),
            step.completed_steps,
            step.total_steps,
            100.0 * step.overall_fraction
        ),
        Some(Event::Fallback(fallback)) => eprintln!("fallback: {}", fallback.message),
        Some(Event::Warning(warning)) => eprintln!("warning: {}", warning.message),
        _ => {}
    }
}

fn explain(error: &(dyn Error + 'static)) {
    eprintln!("{error}");
    let Some(refusal) = error.downcast_ref::<Refusal>() else { return };
    for violation in &refusal.violations {
        eprintln!("  {}: {}", violation.field, violation.description);
    }
    if let Some(pause) = refusal.retry_after {
        eprintln!("  try again in {} ms", pause.as_millis());
    }
}
