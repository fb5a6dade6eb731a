// Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.

using Example;
using Grpc.Core;
using Grpc.Net.Client;
using ImageGen.V1;

if (args.Length < 3)
{
    Console.Error.WriteLine("usage: URL PROMPT FILE [SEED]");
    return 2;
}
var request = new GenerateImageRequest
{
    RequestId = Guid.NewGuid().ToString(),
    Prompt = args[1],
    OnDisconnect = OnDisconnect.Continue, // it outlives a broken connection, and this call
};
if (args.Length > 3)
{
    if (!long.TryParse(args[3], out var seed))
    {
        Console.Error.WriteLine("SEED must be a whole number of 64 bits");
        return 2;
    }
    request.Seed = seed;
}
using var interrupted = new CancellationTokenSource();
Console.CancelKeyPress += (_, pressed) =>
{
    pressed.Cancel = true;
    interrupted.Cancel(); // Ctrl-C cancels
};
// Probes notice a connection that is lost without being closed. The server ends connections that are probed more often than
// every 10 s.
var handler = new SocketsHttpHandler
{
    KeepAlivePingDelay = TimeSpan.FromSeconds(30),
    KeepAlivePingTimeout = TimeSpan.FromSeconds(20),
    KeepAlivePingPolicy = HttpKeepAlivePingPolicy.WithActiveRequests,
};
var options = new GrpcChannelOptions { HttpHandler = handler, DisposeHttpClient = true };
using var channel = GrpcChannel.ForAddress(args[0], options); // https:// for servers with TLS
var client = new ImageGen.V1.ImageGen.ImageGenClient(channel);
try
{
    var deadline = DateTime.UtcNow.AddMinutes(5);
    var images = await Generation.RunAsync(client, request, deadline, 5, Show, interrupted.Token);
    await File.WriteAllBytesAsync(args[2], images[0].Data.ToArray());
    Console.WriteLine(images[0].Header.Sha256);
    return 0;
}
catch (Refusal refusal)
{
    Console.Error.WriteLine($"{refusal.Code}: {refusal.Message}");
    foreach (var violation in refusal.Violations)
    {
        Console.Error.WriteLine($"  {violation.Field}: {violation.Description}");
    }
    if (refusal.RetryAfter is { } pause)
    {
        Console.Error.WriteLine($"  try again in {pause.TotalMilliseconds} ms");
    }
    await StopAsync();
    return 1;
}
catch (Exception error) // a damaged image, or Ctrl-C before a new attempt
{
    Console.Error.WriteLine(error.Message);
    await StopAsync();
    return 1;
}

// Ends a generation that would go on for nobody: after Ctrl-C, or when the time is up. One that has ended, or never began, is
// left as it is.
async Task StopAsync()
{
    try
    {
        var stopped = new CancelGenerationRequest { RequestId = request.RequestId };
        await client.CancelGenerationAsync(stopped, deadline: DateTime.UtcNow.AddSeconds(5));
    }
    catch (RpcException)
    {
        // nobody is there, or it never began
    }
}

static void Show(GenerateImageResponse response)
{
    switch (response.EventCase)
    {
        case GenerateImageResponse.EventOneofCase.Accepted:
            Console.Error.WriteLine($"accepted as {response.RequestId}, seed {response.Accepted.Plan.Seed}");
            break;
        case GenerateImageResponse.EventOneofCase.StepProgress:
            var step = response.StepProgress;
            Console.Error.WriteLine(
                $"{step.Stage} {step.CompletedSteps}/{step.TotalSteps}, {100 * step.OverallFraction:F0} %");
            break;
        case GenerateImageResponse.EventOneofCase.Fallback:
            Console.Error.WriteLine($"fallback: {response.Fallback.Message}");
            break;
        case GenerateImageResponse.EventOneofCase.Warning:
            Console.Error.WriteLine($"warning: {response.Warning.Message}");
            break;
    }
}
