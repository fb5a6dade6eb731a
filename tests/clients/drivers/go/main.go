// Runs the cases that arrive as JSON lines, with the code of the example, and answers with a JSON line each.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "imagegen-example/gen/imagegen/v1"
	"imagegen-example/generation"
)

type step struct {
	Address  string
	CA       string
	Metadata map[string]string
	Call     string
	Request  json.RawMessage
	Deadline float64 // seconds
	Attempts int
	Stop     *struct{ After, By string }
}

type answer map[string]any

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	output := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var case_ step
		must(json.Unmarshal(lines.Bytes(), &case_))
		must(output.Encode(run(&case_)))
	}
}

func run(case_ *step) answer {
	connection, err := generation.Dial(case_.Address, case_.CA)
	must(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(case_.Deadline*float64(time.Second)))
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(case_.Metadata))
	if case_.Call == "GenerateImage" {
		return generate(ctx, cancel, case_, connection)
	}
	return unary(ctx, case_, connection)
}

func generate(ctx context.Context, cancel func(), case_ *step, connection *grpc.ClientConn) answer {
	client := pb.NewImageGenClient(connection)
	request := &pb.GenerateImageRequest{}
	must(protojson.Unmarshal(case_.Request, request))
	events := []string{}
	seen := map[string]bool{}
	result, err := generation.Generate(ctx, client, request, case_.Attempts, func(response *pb.GenerateImageResponse) {
		name := eventName(response)
		if seen[name] {
			return
		}
		seen[name] = true
		events = append(events, name)
		if case_.Stop != nil && case_.Stop.After == name {
			if case_.Stop.By == "call" {
				cancel()
				return
			}
			_, err := client.CancelGeneration(context.Background(), &pb.CancelGenerationRequest{RequestId: response.RequestId})
			must(err)
		}
	})
	said := failure(err)
	said["events"] = events
	if err != nil {
		return said
	}
	said["request_id"] = result.RequestID
	said["plan"] = plain(result.Plan)
	said["completed"] = plain(result.Completed)
	said["reattached"] = result.Reattached
	said["waits_ms"] = milliseconds(result.Waits)
	images := []answer{}
	for _, image := range result.Images {
		images = append(images, answer{"header": plain(image.Header), "bytes": len(image.Data)})
	}
	said["images"] = images
	return said
}

func unary(ctx context.Context, case_ *step, connection *grpc.ClientConn) answer {
	requests := map[string][2]proto.Message{
		"CancelGeneration": {&pb.CancelGenerationRequest{}, &pb.CancelGenerationResponse{}},
		"ListModels":       {&pb.ListModelsRequest{}, &pb.ListModelsResponse{}},
		"GetServerInfo":    {&pb.GetServerInfoRequest{}, &pb.GetServerInfoResponse{}},
		"GetGeneration":    {&pb.GetGenerationRequest{}, &pb.GetGenerationResponse{}},
		"RenderImage":      {&pb.RenderImageRequest{}, &pb.RenderImageResponse{}},
		"NoSuchMethod":     {&pb.ListModelsRequest{}, &pb.ListModelsResponse{}},
	}
	pair := requests[case_.Call]
	must(protojson.Unmarshal(case_.Request, pair[0]))
	var trailer metadata.MD
	err := connection.Invoke(ctx, "/imagegen.v1.ImageGen/"+case_.Call, pair[0], pair[1], grpc.Trailer(&trailer))
	if err != nil {
		return failure(generation.NewRefusal(err, trailer))
	}
	said := failure(nil)
	said["response"] = plain(pair[1])
	return said
}

func failure(err error) answer {
	if err == nil {
		return answer{"code": "OK"}
	}
	var refusal *generation.Refusal
	if !errors.As(err, &refusal) {
		return answer{"code": "BROKEN", "message": err.Error()}
	}
	said := answer{"code": upper(refusal.Code.String()), "message": refusal.Message, "request_id": refusal.RequestID}
	if refusal.Info != nil {
		said["reason"], said["domain"], said["metadata"] = refusal.Info.Reason, refusal.Info.Domain, refusal.Info.Metadata
	}
	violations := []answer{}
	for _, violation := range refusal.Violations {
		violations = append(violations, answer{"field": violation.Field, "description": violation.Description})
	}
	said["violations"] = violations
	preconditions := []answer{}
	for _, violation := range refusal.Preconditions {
		preconditions = append(preconditions, answer{"type": violation.Type, "subject": violation.Subject})
	}
	said["preconditions"] = preconditions
	if refusal.Resource != nil {
		said["resource"] = answer{"type": refusal.Resource.ResourceType, "name": refusal.Resource.ResourceName}
	}
	if refusal.Retriable {
		said["retry_after_ms"] = refusal.RetryAfter.Milliseconds()
	}
	return said
}

// upper writes Go's names of codes as the other languages do: NotFound becomes NOT_FOUND.
func upper(name string) string {
	if name == "Canceled" {
		return "CANCELLED"
	}
	var result strings.Builder
	for i, letter := range name {
		if i > 0 && letter >= 'A' && letter <= 'Z' {
			result.WriteByte('_')
		}
		result.WriteRune(letter)
	}
	return strings.ToUpper(result.String())
}

func eventName(response *pb.GenerateImageResponse) string {
	message := response.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName(protoreflect.Name("event")))
	return string(field.Name())
}

func plain(message proto.Message) json.RawMessage {
	text, err := protojson.Marshal(message)
	must(err)
	return text
}

func milliseconds(waits []time.Duration) []int64 {
	result := []int64{}
	for _, wait := range waits {
		result = append(result, wait.Milliseconds())
	}
	return result
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
