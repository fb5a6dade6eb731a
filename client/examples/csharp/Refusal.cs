using Google.Rpc;
using Grpc.Core;

namespace Example;

/// <summary>A call that ended with a status other than OK, with what the server says about it.</summary>
public sealed class Refusal : Exception
{
    private readonly ErrorInfo? info;

    /// <summary>Decodes the status and the trailers of a failed call.</summary>
    public Refusal(RpcException error) : base(error.Status.Detail, error)
    {
        Code = error.StatusCode;
        var details = error.GetRpcStatus();
        info = details?.GetDetail<ErrorInfo>();
        Violations = details?.GetDetail<BadRequest>()?.FieldViolations.ToList() ?? [];
        RetryAfter = details?.GetDetail<RetryInfo>()?.RetryDelay?.ToTimeSpan();
        // The trailer has the last word: a negative or unreadable number means "do not retry".
        if (error.Trailers.GetValue("grpc-retry-pushback-ms") is { } pushback)
        {
            RetryAfter = long.TryParse(pushback, out var ms) && ms >= 0 ? TimeSpan.FromMilliseconds(ms) : null;
        }
    }

    public StatusCode Code { get; }

    /// <summary>Stable, for programs: QUEUE_FULL, GPU_OUT_OF_MEMORY …; empty if the transport failed.</summary>
    public string Reason => info?.Reason ?? "";

    public IReadOnlyList<BadRequest.Types.FieldViolation> Violations { get; }

    /// <summary>Null: the server does not ask for a new attempt.</summary>
    public TimeSpan? RetryAfter { get; }

    /// <summary>
    /// The connection broke, which is INTERNAL where a proxy noticed it, or nobody answered: the service gives every error
    /// of its own an ErrorInfo.
    /// </summary>
    public bool Lost => Code is StatusCode.Unavailable or StatusCode.Internal && info is null;
}
