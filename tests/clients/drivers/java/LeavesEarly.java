import example.Generation;
import imagegen.v1.GenerateImageRequest;
import imagegen.v1.GenerateImageResponse;
import imagegen.v1.ImageChunk;
import imagegen.v1.ImageGenGrpc;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.time.Duration;

/**
 * Says whether the example cancels a call that it leaves early: here for a chunk without a header.
 *
 * <p>There is no server. A channel of gRPC's cancels its calls with the context in which they began.
 */
public final class LeavesEarly {
  private static Context begunIn;

  public static void main(String[] arguments) throws Exception {
    try {
      Generation.run(
          ImageGenGrpc.newBlockingStub(new Broken()),
          GenerateImageRequest.getDefaultInstance(),
          Duration.ofMinutes(1),
          1,
          event -> {});
    } catch (IOException error) {
      System.out.println(error.getMessage());
    }
    System.out.println(begunIn.isCancelled() ? "cancelled" : "goes on");
  }

  /** Answers a call with a chunk, and then with nothing. */
  private static final class Broken extends Channel {
    @Override
    public String authority() {
      return "";
    }

    @Override
    public <Q, R> ClientCall<Q, R> newCall(MethodDescriptor<Q, R> method, CallOptions options) {
      return new ClientCall<>() {
        private Listener<R> caller;

        @Override
        public void start(Listener<R> listener, Metadata headers) {
          caller = listener;
          begunIn = Context.current();
        }

        @Override
        public void halfClose() {
          GenerateImageResponse chunk =
              GenerateImageResponse.newBuilder().setImageChunk(ImageChunk.getDefaultInstance()).build();
          caller.onMessage(method.parseResponse(chunk.toByteString().newInput()));
        }

        @Override
        public void sendMessage(Q message) {}

        @Override
        public void request(int messages) {}

        @Override
        public void cancel(String message, Throwable cause) {}
      };
    }
  }
}
