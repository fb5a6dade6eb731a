// Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.
//
//   generate localhost:50051 "a red circle on a blue background" circle.png [SEED] [CA.pem]

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>

#include "generation.h"

namespace {

std::atomic<bool> interrupted{false};

void Show(const imagegen::v1::GenerateImageResponse& response) {
  if (response.has_accepted()) {
    std::cerr << "accepted as " << response.request_id() << ", seed " << response.accepted().plan().seed() << '\n';
  } else if (response.has_step_progress()) {
    const auto& step = response.step_progress();
    std::cerr << imagegen::v1::Stage_Name(step.stage()) << ' ' << step.completed_steps() << '/' << step.total_steps()
              << ", " << static_cast<int>(100 * step.overall_fraction()) << " %\n";
  } else if (response.has_fallback()) {
    std::cerr << "fallback: " << response.fallback().message() << '\n';
  } else if (response.has_warning()) {
    std::cerr << "warning: " << response.warning().message() << '\n';
  }
}

// Ctrl-C cancels; a second one ends the program. A signal handler may do no more than set a flag.
void CancelWhenInterrupted(std::shared_ptr<generation::Canceller> canceller) {
  std::signal(SIGINT, [](int) {
    interrupted = true;
    std::signal(SIGINT, SIG_DFL);
  });
  std::thread([canceller] {
    while (!interrupted) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    canceller->Cancel();
  }).detach();
}

std::string NewId() {
  std::random_device random;
  std::ostringstream id;
  id << std::hex;
  for (int part = 0; part < 4; ++part) id << random();
  return id.str();
}

// Ends a generation that would go on for nobody: after Ctrl-C, or when the time is up. One that has ended, or never began,
// is left as it is.
void Stop(imagegen::v1::ImageGen::Stub& stub, const std::string& request_id) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  imagegen::v1::CancelGenerationRequest request;
  request.set_request_id(request_id);
  imagegen::v1::CancelGenerationResponse response;
  stub.CancelGeneration(&context, request, &response);
}

void Explain(const generation::Refusal& refusal) {
  std::cerr << "status " << refusal.code << ": " << refusal.what() << '\n';
  for (const auto& violation : refusal.violations.field_violations()) {
    std::cerr << "  " << violation.field() << ": " << violation.description() << '\n';
  }
  if (refusal.retry_after) std::cerr << "  try again in " << refusal.retry_after->count() << " ms\n";
}

std::string ReadFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (text.empty()) throw std::runtime_error(std::string("cannot read ") + path + ", or it is empty");
  return text;
}

void WriteFile(const char* path, const std::string& data) {
  std::ofstream file(path, std::ios::binary);
  file << data;
  file.close();
  if (!file) throw std::runtime_error(std::string("cannot write ") + path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " HOST:PORT PROMPT FILE [SEED] [CA.pem]\n";
    return 2;
  }
  imagegen::v1::GenerateImageRequest request;
  request.set_request_id(NewId());
  request.set_prompt(argv[2]);
  request.set_on_disconnect(imagegen::v1::ON_DISCONNECT_CONTINUE);  // it outlives a broken connection, and the call
  if (argc > 4) {
    std::int64_t seed = 0;
    const std::string_view text(argv[4]);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
    if (error != std::errc{} || end != text.data() + text.size()) {
      std::cerr << "SEED must be a whole number of 64 bits\n";
      return 2;
    }
    request.set_seed(seed);
  }
  generation::Options options;
  options.attempts = 5;
  options.on_event = Show;
  CancelWhenInterrupted(options.canceller);
  std::unique_ptr<imagegen::v1::ImageGen::Stub> stub;
  try {
    const auto channel = generation::Connect(argv[1], argc > 5 ? ReadFile(argv[5]) : "");
    stub = imagegen::v1::ImageGen::NewStub(channel);
    const generation::Result result = generation::Generate(*stub, request, options);
    const generation::Image& image = result.images.at(0);
    WriteFile(argv[3], image.data);
    std::cout << image.header.sha256() << '\n';
    return 0;
  } catch (const generation::Refusal& refusal) {
    Explain(refusal);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  if (stub) Stop(*stub, request.request_id());
  return 1;
}
