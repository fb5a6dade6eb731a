package example;

import imagegen.v1.GenerateImageRequest;
import imagegen.v1.GenerateImageResponse;
import imagegen.v1.ImageGenGrpc;
import imagegen.v1.StepProgress;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;

/** Generates one image: shows the progress, checks the hash, writes the file, explains a refusal. */
public final class Generate {
  private Generate() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length < 3) {
      System.err.println("usage: HOST:PORT PROMPT FILE [SEED]");
      System.exit(2);
    }
    GenerateImageRequest.Builder request = GenerateImageRequest.newBuilder().setPrompt(arguments[1]);
    if (arguments.length > 3) {
      try {
        request.setSeed(Long.parseLong(arguments[3]));
      } catch (NumberFormatException error) {
        System.err.println("SEED must be a whole number of 64 bits");
        System.exit(2);
      }
    }
    // usePlaintext is for servers without TLS: leave it out elsewhere
    ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    Runtime.getRuntime().addShutdownHook(new Thread(channel::shutdownNow)); // Ctrl-C cancels, and stops the device
    try {
      List<Generation.Image> images =
          Generation.run(
              ImageGenGrpc.newBlockingStub(channel), request.build(), Duration.ofMinutes(5), 5, Generate::show);
      Files.write(Path.of(arguments[2]), images.get(0).data().toByteArray());
      System.out.println(images.get(0).header().getSha256());
    } catch (Refusal refusal) {
      explain(refusal);
      System.exit(1);
    } catch (IOException error) { // a damaged image, or a file that cannot be written
      System.err.println(error);
      System.exit(1);
    } finally {
      channel.shutdown();
    }
  }

  private static void show(GenerateImageResponse response) {
    switch (response.getEventCase()) {
      case ACCEPTED -> System.err.printf(
          "accepted as %s, seed %d%n", response.getRequestId(), response.getAccepted().getPlan().getSeed());
      case STEP_PROGRESS -> {
        StepProgress step = response.getStepProgress();
        System.err.printf(
            "%s %d/%d, %.0f %%%n",
            step.getStage(), step.getCompletedSteps(), step.getTotalSteps(), 100 * step.getOverallFraction());
      }
      case FALLBACK -> System.err.println("fallback: " + response.getFallback().getMessage());
      case WARNING -> System.err.println("warning: " + response.getWarning().getMessage());
      default -> {}
    }
  }

  private static void explain(Refusal refusal) {
    System.err.println(refusal.code() + ": " + refusal.getMessage());
    refusal.violations().forEach(found -> System.err.println("  " + found.getField() + ": " + found.getDescription()));
    refusal.retryAfter().ifPresent(pause -> System.err.println("  try again in " + pause.toMillis() + " ms"));
  }
}
