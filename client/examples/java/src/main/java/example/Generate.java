package example;

import imagegen.v1.CancelGenerationRequest;
import imagegen.v1.GenerateImageRequest;
import imagegen.v1.GenerateImageResponse;
import imagegen.v1.ImageGenGrpc;
import imagegen.v1.ImageGenGrpc.ImageGenBlockingStub;
import imagegen.v1.OnDisconnect;
import imagegen.v1.StepProgress;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** Generates one image: shows the progress, checks the hash, writes the file, explains a refusal. */
public final class Generate {
  private Generate() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length < 3) {
      System.err.println("usage: HOST:PORT PROMPT FILE [SEED]");
      System.exit(2);
    }
    GenerateImageRequest.Builder request =
        GenerateImageRequest.newBuilder()
            .setRequestId(UUID.randomUUID().toString())
            .setPrompt(arguments[1])
            .setOnDisconnect(OnDisconnect.ON_DISCONNECT_CONTINUE); // it outlives a broken connection, and this call
    if (arguments.length > 3) {
      try {
        request.setSeed(Long.parseLong(arguments[3]));
      } catch (NumberFormatException error) {
        System.err.println("SEED must be a whole number of 64 bits");
        System.exit(2);
      }
    }
    // usePlaintext is for servers without TLS: leave it out elsewhere. Probes notice a connection that is lost without
    // being closed; the server ends connections that are probed more often than every 10 s.
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(arguments[0])
            .usePlaintext()
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(20, TimeUnit.SECONDS)
            .build();
    ImageGenBlockingStub stub = ImageGenGrpc.newBlockingStub(channel);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(channel, stub, request.getRequestId())));
    try {
      List<Generation.Image> images =
          Generation.run(stub, request.build(), Duration.ofMinutes(5), 5, Generate::show);
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

  /**
   * Ends a generation that would go on for nobody: after Ctrl-C, or a failure. One that has ended, or never began, is left
   * as it is.
   */
  private static void stop(ManagedChannel channel, ImageGenBlockingStub stub, String requestId) {
    if (channel.isShutdown()) { // all went well
      return;
    }
    try {
      CancelGenerationRequest request = CancelGenerationRequest.newBuilder().setRequestId(requestId).build();
      stub.withDeadlineAfter(5, TimeUnit.SECONDS).cancelGeneration(request);
    } catch (StatusRuntimeException error) {
      // nobody is there, or it never began
    }
    channel.shutdownNow();
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
