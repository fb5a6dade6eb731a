// Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.
//
//	go run . -address localhost:50051 -seed 7 -o circle.png "a red circle on a blue background"
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	pb "imagegen-example/gen/imagegen/v1"
	"imagegen-example/generation"
)

func main() {
	address := flag.String("address", "localhost:50051", "host:port of the server")
	ca := flag.String("ca", "", "PEM file with the authority of the server's certificate; plain text if empty")
	seed := flag.Int64("seed", -1, "makes the image repeatable; drawn by the server if negative")
	output := flag.String("o", "image.png", "file to write")
	timeout := flag.Duration("timeout", 5*time.Minute, "deadline of the whole generation")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) // Ctrl-C cancels
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := run(ctx, *address, *ca, *output, request(flag.Arg(0), *seed)); err != nil {
		explain(err)
		os.Exit(1)
	}
}

func request(prompt string, seed int64) *pb.GenerateImageRequest {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	request := &pb.GenerateImageRequest{
		RequestId:    hex.EncodeToString(id),
		Prompt:       prompt,
		OnDisconnect: pb.OnDisconnect_ON_DISCONNECT_CONTINUE, // it outlives a broken connection, and this call
	}
	if seed >= 0 {
		request.Seed = &seed
	}
	return request
}

func run(ctx context.Context, address, ca, output string, request *pb.GenerateImageRequest) error {
	connection, err := generation.Dial(address, ca)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewImageGenClient(connection)
	result, err := generation.Generate(ctx, client, request, 5, show)
	if err != nil {
		stop(client, request.RequestId)
		return err
	}
	image := result.Images[0]
	fmt.Println(image.Header.Sha256)
	return os.WriteFile(output, image.Data, 0o644)
}

// stop ends a generation that would go on for nobody: after Ctrl-C, or when the time is up. One that has ended, or never
// began, is left as it is.
func stop(client pb.ImageGenClient, requestID string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = client.CancelGeneration(ctx, &pb.CancelGenerationRequest{RequestId: requestID})
}

func show(response *pb.GenerateImageResponse) {
	switch event := response.Event.(type) {
	case *pb.GenerateImageResponse_Accepted:
		fmt.Fprintf(os.Stderr, "accepted as %s, seed %d\n", response.RequestId, event.Accepted.Plan.Seed)
	case *pb.GenerateImageResponse_StepProgress:
		step := event.StepProgress
		fmt.Fprintf(os.Stderr, "%s %d/%d, %.0f %%\n", step.Stage, step.CompletedSteps, step.TotalSteps, 100*step.OverallFraction)
	case *pb.GenerateImageResponse_Fallback:
		fmt.Fprintf(os.Stderr, "fallback: %s\n", event.Fallback.Message)
	case *pb.GenerateImageResponse_Warning:
		fmt.Fprintf(os.Stderr, "warning: %s\n", event.Warning.Message)
	}
}

func explain(err error) {
	fmt.Fprintln(os.Stderr, err)
	var refusal *generation.Refusal
	if !errors.As(err, &refusal) {
		return
	}
	for _, violation := range refusal.Violations {
		fmt.Fprintf(os.Stderr, "  %s: %s\n", violation.Field, violation.Description)
	}
	if refusal.Retriable {
		fmt.Fprintf(os.Stderr, "  try again in %s\n", refusal.RetryAfter)
	}
}
