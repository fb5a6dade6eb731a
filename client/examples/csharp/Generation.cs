using System.Security.Cryptography;
using Grpc.Core;
using ImageGen.V1;

namespace Example;

/// <summary>One received file. Its hash has been checked.</summary>
public sealed record Image(ImageHeader Header, MemoryStream Data);

/// <summary>
/// One generation: follows the stream, puts the images together, checks their hashes, waits as long as the server asks.
/// </summary>
public sealed class Generation
{
    private readonly List<Image> images = [];
    private readonly ImageGen.V1.ImageGen.ImageGenClient client;
    private readonly Action<GenerateImageResponse> onEvent;
    private readonly CallOptions options;
    private string requestId = "";
    private long sequence;
    private bool accepted;
    private bool completed;

    private Generation(
        ImageGen.V1.ImageGen.ImageGenClient client, CallOptions options, Action<GenerateImageResponse> onEvent)
    {
        this.client = client;
        this.options = options;
        this.onEvent = onEvent;
    }

    /// <summary>
    /// Runs a generation and returns its images. A refusal that says when to come back is waited out and tried again, while
    /// there are attempts and time left. If the connection breaks, and the request says ON_DISCONNECT_CONTINUE, the
    /// generation goes on and this re-attaches to it. Every other failure is a Refusal.
    /// </summary>
    public static async Task<IReadOnlyList<Image>> RunAsync(
        ImageGen.V1.ImageGen.ImageGenClient client,
        GenerateImageRequest request,
        DateTime deadline,
        int attempts,
        Action<GenerateImageResponse> onEvent,
        CancellationToken cancellation)
    {
        var options = new CallOptions(deadline: deadline, cancellationToken: cancellation);
        var generation = new Generation(client, options, onEvent);
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await (generation.accepted ? generation.ReattachAsync() : generation.BeginAsync(request));
                generation.Check(request.ValidateOnly);
                return generation.images;
            }
            catch (RpcException error)
            {
                var refusal = new Refusal(error);
                if (attempt >= attempts || !generation.Recovers(refusal, request, deadline))
                {
                    throw refusal;
                }
                await Task.Delay(generation.accepted ? TimeSpan.Zero : refusal.RetryAfter!.Value, cancellation);
            }
        }
    }

    private bool Recovers(Refusal refusal, GenerateImageRequest request, DateTime deadline) => accepted
        ? refusal.Lost && request.OnDisconnect == OnDisconnect.Continue
        : refusal.RetryAfter is { } pause && DateTime.UtcNow + pause < deadline;

    private async Task BeginAsync(GenerateImageRequest request)
    {
        using var call = client.GenerateImage(request, options);
        await foreach (var response in call.ResponseStream.ReadAllAsync())
        {
            Take(response);
        }
    }

    /// <summary>Goes on where the last event left off; no event is missed.</summary>
    private async Task ReattachAsync()
    {
        var request = new WatchGenerationRequest { RequestId = requestId, AfterSequence = sequence };
        using var call = client.WatchGeneration(request, options.WithWaitForReady());
        await foreach (var watched in call.ResponseStream.ReadAllAsync())
        {
            Take(watched.Response);
        }
    }

    /// <summary>Puts one event in its place. Events that this client does not know are none of its business.</summary>
    private void Take(GenerateImageResponse response)
    {
        requestId = response.RequestId;
        sequence = response.Sequence;
        switch (response.EventCase)
        {
            case GenerateImageResponse.EventOneofCase.Accepted:
                accepted = true;
                break;
            case GenerateImageResponse.EventOneofCase.ImageHeader:
                images.Add(new Image(response.ImageHeader, new MemoryStream()));
                break;
            case GenerateImageResponse.EventOneofCase.ImageChunk:
                Append(response.ImageChunk);
                break;
            case GenerateImageResponse.EventOneofCase.Completed:
                completed = true;
                break;
        }
        onEvent(response);
    }

    private void Append(ImageChunk chunk)
    {
        var image = images.LastOrDefault();
        if (image is null || image.Header.ImageIndex != chunk.ImageIndex || image.Data.Length != chunk.Offset)
        {
            throw new InvalidDataException($"a chunk of image {chunk.ImageIndex} is missing");
        }
        chunk.Data.WriteTo(image.Data);
    }

    /// <summary>Makes sure that everything came, and that it is what the server sent. Images arrive as they are ready.</summary>
    private void Check(bool validateOnly)
    {
        if (!completed && !validateOnly)
        {
            throw new InvalidDataException("the stream ended before the generation did");
        }
        images.Sort((one, other) => one.Header.ImageIndex.CompareTo(other.Header.ImageIndex));
        foreach (var image in images)
        {
            var hash = Convert.ToHexString(SHA256.HashData(image.Data.ToArray())).ToLowerInvariant();
            if (hash != image.Header.Sha256)
            {
                throw new InvalidDataException($"image {image.Header.ImageIndex} is damaged");
            }
        }
    }
}
