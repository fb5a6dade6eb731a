package example;

import imagegen.v1.Completed;
import imagegen.v1.GenerateImageRequest;
import imagegen.v1.GenerateImageResponse;
import imagegen.v1.GenerationPlan;
import imagegen.v1.ImageChunk;
import imagegen.v1.ImageGenGrpc.ImageGenBlockingStub;
import imagegen.v1.ImageHeader;
import imagegen.v1.OnDisconnect;
import imagegen.v1.WatchGenerationRequest;
import imagegen.v1.WatchGenerationResponse;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.StatusRuntimeException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;

/** One generation: follows the stream, puts the images together, checks their hashes, waits as long as the server asks. */
public final class Generation {
  /** One received file. Its hash has been checked. */
  public record Image(ImageHeader header, ByteArrayOutputStream data) {}

  private final ImageGenBlockingStub stub;
  private final Consumer<GenerateImageResponse> onEvent;
  private final List<Image> images = new ArrayList<>();
  private String requestId = "";
  private long sequence;
  private GenerationPlan plan;
  private Completed completed;

  private Generation(ImageGenBlockingStub stub, Consumer<GenerateImageResponse> onEvent) {
    this.stub = stub;
    this.onEvent = onEvent;
  }

  /**
   * Runs a generation and returns its images.
   *
   * <p>A refusal that says when to come back is waited out and tried again, while there are attempts and time left. If the
   * connection breaks, and the request says ON_DISCONNECT_CONTINUE, the generation goes on and this re-attaches to it.
   */
  public static List<Image> run(
      ImageGenBlockingStub stub,
      GenerateImageRequest request,
      Duration timeout,
      int attempts,
      Consumer<GenerateImageResponse> onEvent)
      throws Refusal, IOException, InterruptedException {
    Deadline deadline = Deadline.after(timeout.toMillis(), TimeUnit.MILLISECONDS); // of all attempts together
    Generation generation = new Generation(stub.withDeadline(deadline), onEvent);
    for (int attempt = 1; ; attempt++) {
      try {
        if (generation.plan == null) {
          generation.begin(request);
        } else {
          generation.reattach();
        }
        generation.check(request.getValidateOnly());
        return generation.images;
      } catch (StatusRuntimeException error) {
        Refusal refusal = new Refusal(error);
        if (attempt >= attempts || !generation.recovers(refusal, request, deadline)) {
          throw refusal;
        }
      }
    }
  }

  private boolean recovers(Refusal refusal, GenerateImageRequest request, Deadline deadline)
      throws InterruptedException {
    if (plan != null) {
      return refusal.lost() && request.getOnDisconnect() == OnDisconnect.ON_DISCONNECT_CONTINUE;
    }
    long pause = refusal.retryAfter().map(Duration::toMillis).orElse(Long.MAX_VALUE);
    if (pause >= deadline.timeRemaining(TimeUnit.MILLISECONDS)) {
      return false;
    }
    Thread.sleep(pause);
    return true;
  }

  private void begin(GenerateImageRequest request) throws IOException {
    follow(() -> stub.generateImage(request), Function.identity());
  }

  /** Goes on where the last event left off; no event is missed. */
  private void reattach() throws IOException {
    WatchGenerationRequest request =
        WatchGenerationRequest.newBuilder().setRequestId(requestId).setAfterSequence(sequence).build();
    follow(() -> stub.withWaitForReady().watchGeneration(request), WatchGenerationResponse::getResponse);
  }

  /** Reads a call to its end. Leaving early cancels it; reading no further would not. */
  private <T> void follow(Supplier<Iterator<T>> start, Function<T, GenerateImageResponse> unwrap) throws IOException {
    Context.CancellableContext context = Context.current().withCancellation();
    Context before = context.attach();
    try {
      Iterator<T> call = start.get();
      while (call.hasNext()) {
        take(unwrap.apply(call.next()));
      }
    } finally {
      context.detachAndCancel(before, null);
    }
  }

  /** Puts one event in its place. Events that this client does not know are none of its business. */
  private void take(GenerateImageResponse response) throws IOException {
    requestId = response.getRequestId();
    sequence = response.getSequence();
    switch (response.getEventCase()) {
      case ACCEPTED -> plan = response.getAccepted().getPlan();
      case IMAGE_HEADER -> images.add(new Image(response.getImageHeader(), new ByteArrayOutputStream()));
      case IMAGE_CHUNK -> append(response.getImageChunk());
      case COMPLETED -> completed = response.getCompleted();
      default -> {}
    }
    onEvent.accept(response);
  }

  private void append(ImageChunk chunk) throws IOException {
    Image image = images.isEmpty() ? null : images.get(images.size() - 1);
    if (image == null
        || image.header().getImageIndex() != chunk.getImageIndex()
        || image.data().size() != chunk.getOffset()) {
      throw new IOException("a chunk of image " + chunk.getImageIndex() + " is missing");
    }
    chunk.getData().writeTo(image.data());
  }

  /** Makes sure that everything came, and that it is what the server sent. Images arrive as they are ready. */
  private void check(boolean validateOnly) throws IOException {
    if (completed == null && !validateOnly) {
      throw new IOException("the stream ended before the generation did");
    }
    images.sort(Comparator.comparingInt(image -> image.header().getImageIndex()));
    for (Image image : images) {
      if (!sha256(image.data().toByteArray()).equals(image.header().getSha256())) {
        throw new IOException("image " + image.header().getImageIndex() + " is damaged");
      }
    }
  }

  private static String sha256(byte[] bytes) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    } catch (NoSuchAlgorithmException impossible) {
      throw new IllegalStateException(impossible);
    }
  }
}
