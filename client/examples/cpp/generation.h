// One generation: follows the stream, puts the images together, checks their hashes, waits as long as the server asks.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"
#include "imagegen/v1/imagegen.grpc.pb.h"

namespace generation {

using std::chrono::milliseconds;

// A call that ended with a status other than OK, with what the server says about it.
struct Refusal : std::runtime_error {
  Refusal(const grpc::Status& status, const grpc::ClientContext& context);

  // The connection broke, which is INTERNAL where a proxy noticed it, or nobody answered: the service gives every error of
  // its own an ErrorInfo.
  bool Lost() const {
    return (code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::INTERNAL) && !info;
  }

  grpc::StatusCode code;
  std::string request_id;
  std::optional<google::rpc::ErrorInfo> info;  // empty: the transport failed, not the service
  google::rpc::BadRequest violations;
  google::rpc::PreconditionFailure preconditions;
  google::rpc::ResourceInfo resource;
  std::optional<milliseconds> retry_after;  // empty: the server does not ask for a new attempt
};

// One received file. Its hash has been checked.
struct Image {
  imagegen::v1::ImageHeader header;
  std::string data;
};

// What a generation came to.
struct Result {
  std::string request_id;
  int64_t sequence = 0;  // of the last event that was received
  std::optional<imagegen::v1::GenerationPlan> plan;
  std::optional<imagegen::v1::Completed> completed;  // empty with validate_only
  std::vector<Image> images;
  std::vector<milliseconds> waits;  // how long each refusal was waited out
  int reattached = 0;               // how often the connection broke
};

// Ends a call from another thread, or from `on_event`, whatever it waits for: an event, or a new attempt.
class Canceller {
 public:
  // Cancels the call, and all that follow it. That stops the device, unless the request says ON_DISCONNECT_CONTINUE.
  void Cancel();

  // Names the call that is to be cancelled.
  void Watch(const std::shared_ptr<grpc::ClientContext>& context);

  // Waits; returns false if it was cancelled before or meanwhile.
  bool Wait(milliseconds pause);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::weak_ptr<grpc::ClientContext> context_;
  bool cancelled_ = false;
};

struct Options {
  // When to give up, attempts and waits included.
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::now() + std::chrono::minutes(5);
  // How often to try when the server refuses for now.
  int attempts = 1;
  std::multimap<std::string, std::string> metadata;
  // Sees every event as it arrives; use it to show progress.
  std::function<void(const imagegen::v1::GenerateImageResponse&)> on_event;
  std::shared_ptr<Canceller> canceller = std::make_shared<Canceller>();
};

// Connects in plain text, or with TLS if the PEM text of an authority is given.
std::shared_ptr<grpc::Channel> Connect(const std::string& address, const std::string& ca);

// Runs a generation and returns its images.
//
// A refusal that says when to come back is waited out and tried again, while there are attempts and time left. If the
// connection breaks, and the request says ON_DISCONNECT_CONTINUE, the generation goes on and this re-attaches to it.
// Throws Refusal for every other status, std::runtime_error for images that did not arrive whole.
Result Generate(imagegen::v1::ImageGen::Stub& stub, const imagegen::v1::GenerateImageRequest& request,
                const Options& options);

// Returns the SHA-256 of bytes in lower-case hexadecimal digits.
std::string Sha256(const std::string& bytes);

}  // namespace generation
