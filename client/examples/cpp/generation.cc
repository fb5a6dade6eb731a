#include "generation.h"

#include <algorithm>
#include <cstdlib>

#include <openssl/evp.h>

#include "google/rpc/status.pb.h"

namespace generation {
namespace {

using imagegen::v1::GenerateImageRequest;
using imagegen::v1::GenerateImageResponse;
using imagegen::v1::ImageChunk;
using imagegen::v1::ImageGen;
using imagegen::v1::WatchGenerationRequest;
using imagegen::v1::WatchGenerationResponse;

// Returns the first value of a trailer, or nothing.
std::optional<std::string> Trailer(const grpc::ClientContext& context, const std::string& key) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(key);
  if (found == trailers.end()) return std::nullopt;
  return std::string(found->second.data(), found->second.size());
}

void Append(Result& result, const ImageChunk& chunk) {
  if (result.images.empty()) throw std::runtime_error("a chunk came before its header");
  Image& image = result.images.back();
  if (chunk.image_index() != image.header.image_index() || chunk.offset() != static_cast<int64_t>(image.data.size())) {
    throw std::runtime_error("a chunk of image " + std::to_string(chunk.image_index()) + " is missing");
  }
  image.data += chunk.data();
}

// Puts one event in its place. Events that this client does not know are none of its business.
void Take(Result& result, const GenerateImageResponse& response) {
  result.request_id = response.request_id();
  result.sequence = response.sequence();
  switch (response.event_case()) {
    case GenerateImageResponse::kAccepted:
      result.plan = response.accepted().plan();
      break;
    case GenerateImageResponse::kImageHeader:
      result.images.push_back({response.image_header(), ""});
      result.images.back().data.reserve(response.image_header().size_bytes());
      break;
    case GenerateImageResponse::kImageChunk:
      Append(result, response.image_chunk());
      break;
    case GenerateImageResponse::kCompleted:
      result.completed = response.completed();
      break;
    default:
      break;
  }
}

// Makes sure that everything came, and that it is what the server sent. Images arrive as they are ready.
void Check(Result& result, bool validate_only) {
  if (!result.completed && !validate_only) throw std::runtime_error("the stream ended before the generation did");
  std::sort(result.images.begin(), result.images.end(), [](const Image& one, const Image& other) {
    return one.header.image_index() < other.header.image_index();
  });
  for (const Image& image : result.images) {
    if (Sha256(image.data) != image.header.sha256()) {
      throw std::runtime_error("image " + std::to_string(image.header.image_index()) + " is damaged");
    }
  }
}

const GenerateImageResponse& Unwrap(const GenerateImageResponse& response) { return response; }
const GenerateImageResponse& Unwrap(const WatchGenerationResponse& response) { return response.response(); }

// Reads a call to its end.
template <typename Response>
void Follow(grpc::ClientReader<Response>& reader, grpc::ClientContext& context, const Options& options, Result& result) {
  Response response;
  try {
    while (reader.Read(&response)) {
      Take(result, Unwrap(response));
      if (options.on_event) options.on_event(Unwrap(response));
    }
  } catch (...) {
    context.TryCancel();  // leaving early stops the server
    reader.Finish();
    throw;
  }
  const grpc::Status status = reader.Finish();
  if (!status.ok()) throw Refusal(status, context);
}

std::shared_ptr<grpc::ClientContext> MakeContext(const Options& options) {
  auto context = std::make_shared<grpc::ClientContext>();
  context->set_deadline(options.deadline);
  for (const auto& [key, value] : options.metadata) context->AddMetadata(key, value);
  options.canceller->Watch(context);
  return context;
}

void Begin(ImageGen::Stub& stub, const GenerateImageRequest& request, const Options& options, Result& result) {
  const auto context = MakeContext(options);
  Follow(*stub.GenerateImage(context.get(), request), *context, options, result);
}

// Goes on where the last event left off; no event is missed.
void Reattach(ImageGen::Stub& stub, const Options& options, Result& result) {
  const auto context = MakeContext(options);
  context->set_wait_for_ready(true);
  WatchGenerationRequest request;
  request.set_request_id(result.request_id);
  request.set_after_sequence(result.sequence);
  Follow(*stub.WatchGeneration(context.get(), request), *context, options, result);
}

// Decides what becomes of a call that ended badly: a wait, a new attempt, or the caller's exception.
bool Recovers(const Refusal& refusal, const GenerateImageRequest& request, const Options& options, Result& result) {
  if (result.plan) {
    if (!refusal.Lost() || request.on_disconnect() != imagegen::v1::ON_DISCONNECT_CONTINUE) return false;
    result.reattached++;
    return true;
  }
  if (!refusal.retry_after) return false;
  if (std::chrono::system_clock::now() + *refusal.retry_after >= options.deadline) return false;
  result.waits.push_back(*refusal.retry_after);
  return options.canceller->Wait(*refusal.retry_after);
}

}  // namespace

Refusal::Refusal(const grpc::Status& status, const grpc::ClientContext& context)
    : std::runtime_error(status.error_message()),
      code(status.error_code()),
      request_id(Trailer(context, "x-request-id").value_or("")) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details()) {
    google::rpc::ErrorInfo error_info;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&error_info)) {
      info = error_info;
    } else if (detail.UnpackTo(&retry)) {
      retry_after = milliseconds(retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000);
    } else {
      detail.UnpackTo(&violations) || detail.UnpackTo(&preconditions) || detail.UnpackTo(&resource);
    }
  }
  // The trailer has the last word: a negative or unreadable number means "do not retry".
  if (const auto pushback = Trailer(context, "grpc-retry-pushback-ms")) {
    char* end = nullptr;
    const long value = std::strtol(pushback->c_str(), &end, 10);
    retry_after = *end == '\0' && value >= 0 ? std::optional(milliseconds(value)) : std::nullopt;
  }
}

void Canceller::Cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (const auto context = context_.lock()) context->TryCancel();
  changed_.notify_all();
}

void Canceller::Watch(const std::shared_ptr<grpc::ClientContext>& context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = context;
  if (cancelled_) context->TryCancel();
}

bool Canceller::Wait(milliseconds pause) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, pause, [this] { return cancelled_; });
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address, const std::string& ca) {
  // Probes notice a connection that is lost without being closed. The server ends connections that are probed more often
  // than every 10 s.
  grpc::ChannelArguments probes;
  probes.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  probes.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  probes.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  if (ca.empty()) return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), probes);
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = ca;
  return grpc::CreateCustomChannel(address, grpc::SslCredentials(tls), probes);
}

Result Generate(ImageGen::Stub& stub, const GenerateImageRequest& request, const Options& options) {
  Result result;
  for (int attempt = 1;; ++attempt) {
    try {
      result.plan ? Reattach(stub, options, result) : Begin(stub, request, options, result);
      Check(result, request.validate_only());
      return result;
    } catch (const Refusal& refusal) {
      if (attempt >= options.attempts || !Recovers(refusal, request, options, result)) throw;
    }
  }
}

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

}  // namespace generation
