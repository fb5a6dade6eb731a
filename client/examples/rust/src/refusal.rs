//! What a call that failed says about itself.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, FieldViolation, StatusExt};

/// A call that ended with a status other than OK.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// None: the transport failed, not the service.
    pub info: Option<ErrorInfo>,
    pub violations: Vec<FieldViolation>,
    /// None: the server does not ask for a new attempt.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The connection broke, which tonic calls UNKNOWN, and INTERNAL where a proxy noticed it, or nobody answered: the
    /// service gives every error of its own an ErrorInfo.
    pub fn lost(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::Unknown | Code::Internal) && self.info.is_none()
    }
}

impl From<Status> for Refusal {
    /// Decodes the status and the trailers of a failed call.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        // The trailer has the last word: a negative or unreadable number means "do not retry".
        let retry_after = match status.metadata().get("grpc-retry-pushback-ms") {
            Some(pushback) => pushback.to_str().ok().and_then(|ms| ms.parse().ok()).map(Duration::from_millis),
            None => details.retry_info().and_then(|retry| retry.retry_delay),
        };
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            info: details.error_info().cloned(),
            violations: details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default(),
            retry_after,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}
