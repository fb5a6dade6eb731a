// Runs the cases that arrive as JSON lines, with the code of the example, and answers with a JSON line each.

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/impl/codegen/client_unary_call.h>

#include "generation.h"

namespace {

using google::protobuf::ListValue;
using google::protobuf::Message;
using google::protobuf::Struct;
using google::protobuf::Value;
namespace json = google::protobuf::util;
namespace v1 = imagegen::v1;

Value Text(const std::string& text) {
  Value value;
  value.set_string_value(text);
  return value;
}

Value Number(double number) {
  Value value;
  value.set_number_value(number);
  return value;
}

Value Object(Struct fields) {
  Value value;
  *value.mutable_struct_value() = std::move(fields);
  return value;
}

Value List(const std::vector<Value>& values) {
  Value list;
  list.mutable_list_value();
  for (const Value& value : values) *list.mutable_list_value()->add_values() = value;
  return list;
}

void Set(Struct& object, const std::string& key, Value value) { (*object.mutable_fields())[key] = std::move(value); }

const Value& Get(const Struct& object, const std::string& key) { return object.fields().at(key); }

void Must(const google::protobuf::util::Status& status) {
  if (!status.ok()) throw std::logic_error(status.ToString());
}

std::string ToJson(const Message& message) {
  std::string text;
  Must(json::MessageToJsonString(message, &text));
  return text;
}

Value Plain(const Message& message) {
  Struct fields;
  Must(json::JsonStringToMessage(ToJson(message), &fields));
  return Object(std::move(fields));
}

void FromJson(const Value& value, Message* message) { Must(json::JsonStringToMessage(ToJson(value), message)); }

std::string CodeName(grpc::StatusCode code) {
  static const char* const kNames[] = {
      "OK",           "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",    "DEADLINE_EXCEEDED", "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
      "UNIMPLEMENTED", "INTERNAL",      "UNAVAILABLE",       "DATA_LOSS",           "UNAUTHENTICATED"};
  return kNames[code];
}

Struct Failure(const generation::Refusal& refusal) {
  Struct said;
  Set(said, "code", Text(CodeName(refusal.code)));
  Set(said, "message", Text(refusal.what()));
  Set(said, "request_id", Text(refusal.request_id));
  if (refusal.info) {
    Set(said, "reason", Text(refusal.info->reason()));
    Set(said, "domain", Text(refusal.info->domain()));
    Struct metadata;
    for (const auto& [key, value] : refusal.info->metadata()) Set(metadata, key, Text(value));
    Set(said, "metadata", Object(metadata));
  }
  std::vector<Value> violations, preconditions;
  for (const auto& violation : refusal.violations.field_violations()) violations.push_back(Plain(violation));
  for (const auto& violation : refusal.preconditions.violations()) {
    Struct one;
    Set(one, "type", Text(violation.type()));
    Set(one, "subject", Text(violation.subject()));
    preconditions.push_back(Object(one));
  }
  Set(said, "violations", List(violations));
  Set(said, "preconditions", List(preconditions));
  if (!refusal.resource.resource_type().empty()) {
    Struct resource;
    Set(resource, "type", Text(refusal.resource.resource_type()));
    Set(resource, "name", Text(refusal.resource.resource_name()));
    Set(said, "resource", Object(resource));
  }
  if (refusal.retry_after) Set(said, "retry_after_ms", Number(refusal.retry_after->count()));
  return said;
}

std::chrono::system_clock::time_point Deadline(const Struct& wanted) {
  const auto seconds = std::chrono::duration<double>(Get(wanted, "deadline").number_value());
  return std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::system_clock::duration>(seconds);
}

std::multimap<std::string, std::string> Metadata(const Struct& wanted) {
  std::multimap<std::string, std::string> result;
  for (const auto& [key, value] : Get(wanted, "metadata").struct_value().fields()) {
    result.emplace(key, value.string_value());
  }
  return result;
}

std::string EventName(const v1::GenerateImageResponse& response) {
  return v1::GenerateImageResponse::descriptor()->FindFieldByNumber(response.event_case())->name();
}

Struct Said(const generation::Result& result) {
  Struct said;
  Set(said, "code", Text("OK"));
  Set(said, "request_id", Text(result.request_id));
  Set(said, "plan", Plain(result.plan.value_or(v1::GenerationPlan())));
  Set(said, "completed", Plain(result.completed.value_or(v1::Completed())));
  std::vector<Value> images, waits;
  for (const auto& image : result.images) {
    Struct one;
    Set(one, "header", Plain(image.header));
    Set(one, "bytes", Number(image.data.size()));
    images.push_back(Object(one));
  }
  for (const auto wait : result.waits) waits.push_back(Number(wait.count()));
  Set(said, "images", List(images));
  Set(said, "waits_ms", List(waits));
  Set(said, "reattached", Number(result.reattached));
  return said;
}

Struct Stream(v1::ImageGen::Stub& stub, const Struct& wanted) {
  v1::GenerateImageRequest request;
  FromJson(Get(wanted, "request"), &request);
  const bool stops = wanted.fields().count("stop") > 0;
  std::vector<std::string> events;
  generation::Options options;
  options.deadline = Deadline(wanted);
  options.attempts = static_cast<int>(Get(wanted, "attempts").number_value());
  options.metadata = Metadata(wanted);
  options.on_event = [&](const v1::GenerateImageResponse& response) {
    const std::string name = EventName(response);
    if (std::find(events.begin(), events.end(), name) != events.end()) return;
    events.push_back(name);
    if (!stops || Get(Get(wanted, "stop").struct_value(), "after").string_value() != name) return;
    if (Get(Get(wanted, "stop").struct_value(), "by").string_value() == "call") return options.canceller->Cancel();
    grpc::ClientContext context;
    v1::CancelGenerationRequest cancel;
    v1::CancelGenerationResponse cancelled;
    cancel.set_request_id(response.request_id());
    if (!stub.CancelGeneration(&context, cancel, &cancelled).ok()) throw std::runtime_error("could not cancel");
  };
  Struct said;
  try {
    said = Said(generation::Generate(stub, request, options));
  } catch (const generation::Refusal& refusal) {
    said = Failure(refusal);
  } catch (const std::runtime_error& error) {
    Set(said, "code", Text("BROKEN"));
    Set(said, "message", Text(error.what()));
  }
  std::vector<Value> names;
  for (const auto& name : events) names.push_back(Text(name));
  Set(said, "events", List(names));
  return said;
}

template <typename Request, typename Response>
Struct Unary(grpc::Channel& channel, const std::string& method, const Struct& wanted) {
  Request request;
  Response response;
  FromJson(Get(wanted, "request"), &request);
  grpc::ClientContext context;
  context.set_deadline(Deadline(wanted));
  for (const auto& [key, value] : Metadata(wanted)) context.AddMetadata(key, value);
  const std::string path = "/imagegen.v1.ImageGen/" + method;
  const grpc::internal::RpcMethod rpc(path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status =
      grpc::internal::BlockingUnaryCall<Request, Response, google::protobuf::MessageLite, google::protobuf::MessageLite>(
          &channel, rpc, &context, request, &response);
  if (!status.ok()) return Failure(generation::Refusal(status, context));
  Struct said;
  Set(said, "code", Text("OK"));
  Set(said, "response", Plain(response));
  return said;
}

Struct Run(const Struct& wanted) {
  std::string ca;
  if (const std::string& path = Get(wanted, "ca").string_value(); !path.empty()) {
    std::ifstream file(path);
    ca.assign(std::istreambuf_iterator<char>(file), {});
  }
  const auto channel = generation::Connect(Get(wanted, "address").string_value(), ca);
  const std::string& call = Get(wanted, "call").string_value();
  if (call == "GenerateImage") return Stream(*v1::ImageGen::NewStub(channel), wanted);
  if (call == "CancelGeneration") {
    return Unary<v1::CancelGenerationRequest, v1::CancelGenerationResponse>(*channel, call, wanted);
  }
  if (call == "GetServerInfo") return Unary<v1::GetServerInfoRequest, v1::GetServerInfoResponse>(*channel, call, wanted);
  if (call == "GetGeneration") return Unary<v1::GetGenerationRequest, v1::GetGenerationResponse>(*channel, call, wanted);
  if (call == "RenderImage") return Unary<v1::RenderImageRequest, v1::RenderImageResponse>(*channel, call, wanted);
  return Unary<v1::ListModelsRequest, v1::ListModelsResponse>(*channel, call, wanted);
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    Struct wanted;
    Must(json::JsonStringToMessage(line, &wanted));
    std::cout << ToJson(Run(wanted)) << std::endl;
  }
}
