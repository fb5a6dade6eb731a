// Package generation runs one generation: it follows the stream, puts the images together, checks their hashes, and
// waits as long as the server asks when it is refused for now.
package generation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sort"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pb "imagegen-example/gen/imagegen/v1"
)

// Image is one received file. Its hash has been checked.
type Image struct {
	Header *pb.ImageHeader
	Data   []byte
}

// Result is what a generation came to.
type Result struct {
	RequestID  string
	Sequence   int64 // of the last event that was received
	Plan       *pb.GenerationPlan
	Images     []Image
	Completed  *pb.Completed   // nil with validate_only
	Waits      []time.Duration // how long each refusal was waited out
	Reattached int             // how often the connection broke
}

// OnEvent sees every event as it arrives; use it to show progress.
type OnEvent func(*pb.GenerateImageResponse)

// Generate runs a generation and returns its images.
//
// A refusal that says when to come back is waited out and tried again, until `attempts` are used up or the context's
// deadline would pass meanwhile. If the connection breaks, and the request says ON_DISCONNECT_CONTINUE, the generation goes
// on and this re-attaches to it. Every other failure is a *Refusal. Cancelling the context stops any
// other generation, and the device.
func Generate(ctx context.Context, client pb.ImageGenClient, request *pb.GenerateImageRequest, attempts int, onEvent OnEvent) (*Result, error) {
	result := &Result{}
	err := result.begin(ctx, client, request, onEvent)
	for attempt := 1; attempt < attempts && err != nil; attempt++ {
		refusal, refused := err.(*Refusal)
		switch {
		case refused && refusal.Retriable && result.Plan == nil && result.wait(ctx, refusal.RetryAfter):
			err = result.begin(ctx, client, request, onEvent)
		case refused && refusal.Lost() && result.Plan != nil && request.OnDisconnect == pb.OnDisconnect_ON_DISCONNECT_CONTINUE:
			result.Reattached++
			err = result.reattach(ctx, client, onEvent)
		default:
			return result, err
		}
	}
	if err == nil {
		err = result.check(request.ValidateOnly)
	}
	return result, err
}

// wait waits as long as the server asks; false if there is no time for it.
func (r *Result) wait(ctx context.Context, pause time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return false
	}
	r.Waits = append(r.Waits, pause)
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Result) begin(ctx context.Context, client pb.ImageGenClient, request *pb.GenerateImageRequest, onEvent OnEvent) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // returning early stops the server
	stream, err := client.GenerateImage(ctx, request)
	if err != nil {
		return NewRefusal(err, nil)
	}
	return r.follow(stream.Recv, stream, onEvent)
}

// reattach goes on where the last event left off; no event is missed.
func (r *Result) reattach(ctx context.Context, client pb.ImageGenClient, onEvent OnEvent) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &pb.WatchGenerationRequest{RequestId: r.RequestID, AfterSequence: r.Sequence}
	stream, err := client.WatchGeneration(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		return NewRefusal(err, nil)
	}
	next := func() (*pb.GenerateImageResponse, error) {
		watched, err := stream.Recv()
		return watched.GetResponse(), err
	}
	return r.follow(next, stream, onEvent)
}

// follow reads a call to its end.
func (r *Result) follow(next func() (*pb.GenerateImageResponse, error), call grpc.ClientStream, onEvent OnEvent) error {
	for {
		response, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return NewRefusal(err, call.Trailer())
		}
		if err := r.take(response); err != nil {
			return err
		}
		if onEvent != nil {
			onEvent(response)
		}
	}
}

// take puts one event in its place. Events that this client does not know are none of its business.
func (r *Result) take(response *pb.GenerateImageResponse) error {
	r.RequestID, r.Sequence = response.RequestId, response.Sequence
	switch event := response.Event.(type) {
	case *pb.GenerateImageResponse_Accepted:
		r.Plan = event.Accepted.Plan
	case *pb.GenerateImageResponse_ImageHeader:
		r.Images = append(r.Images, Image{Header: event.ImageHeader})
	case *pb.GenerateImageResponse_ImageChunk:
		return r.append(event.ImageChunk)
	case *pb.GenerateImageResponse_Completed:
		r.Completed = event.Completed
	}
	return nil
}

func (r *Result) append(chunk *pb.ImageChunk) error {
	if len(r.Images) == 0 {
		return fmt.Errorf("a chunk came before its header")
	}
	image := &r.Images[len(r.Images)-1]
	if chunk.ImageIndex != image.Header.ImageIndex || chunk.Offset != int64(len(image.Data)) {
		return fmt.Errorf("a chunk of image %d is missing at byte %d", image.Header.ImageIndex, len(image.Data))
	}
	image.Data = append(image.Data, chunk.Data...)
	return nil
}

// check makes sure that everything came, and that it is what the server sent. Images arrive as they are ready.
func (r *Result) check(validateOnly bool) error {
	if r.Completed == nil && !validateOnly {
		return fmt.Errorf("the stream ended before the generation did")
	}
	sort.Slice(r.Images, func(i, j int) bool { return r.Images[i].Header.ImageIndex < r.Images[j].Header.ImageIndex })
	for _, image := range r.Images {
		sum := sha256.Sum256(image.Data)
		if hex.EncodeToString(sum[:]) != image.Header.Sha256 {
			return fmt.Errorf("image %d is damaged: its SHA-256 is not the one announced", image.Header.ImageIndex)
		}
	}
	return nil
}

// firstOf returns the first value of a metadata key, or "".
func firstOf(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}
