//! Generates one image: shows the progress, checks the hash, writes the file, explains a refusal.
//!
//!     cargo run -- http://localhost:50051 "a red circle on a blue background" circle.png 7

mod generation;
mod refusal;

/// The stubs, as buf.gen.yaml has them generated. Some versions of the plugin write them to gen/imagegen/v1/.
mod pb {
    include!("../gen/imagegen.v1.rs");
}

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pb::generate_image_response::Event;
use pb::image_gen_client::ImageGenClient;
use pb::{CancelGenerationRequest, GenerateImageRequest, GenerateImageResponse, OnDisconnect};
use refusal::Refusal;
use tonic::transport::{Channel, Endpoint};
use tonic::Request;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, prompt, file, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: URL PROMPT FILE [SEED]");
        return ExitCode::from(2);
    };
    let Ok(seed) = rest.first().map(|seed| seed.parse::<i64>()).transpose() else {
        eprintln!("SEED must be a whole number of 64 bits");
        return ExitCode::from(2);
    };
    let request = GenerateImageRequest {
        request_id: new_id(),
        prompt: prompt.clone(),
        seed,
        on_disconnect: OnDisconnect::Continue.into(), // it outlives a broken connection, and this call
        ..Default::default()
    };
    match run(url, file, request).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            explain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn new_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), since.as_nanos())
}

async fn run(url: &str, file: &str, request: GenerateImageRequest) -> Result<(), Box<dyn Error>> {
    // Probes notice a connection that is lost without being closed. The server ends connections that are probed more often
    // than every 10 s.
    let endpoint = Endpoint::new(url.to_owned())? // with TLS for https://
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut client = ImageGenClient::new(endpoint.connect().await?);
    let (mut stopping, request_id) = (client.clone(), request.request_id.clone());
    let done = tokio::select! {
        done = generation::generate(&mut client, request, Duration::from_secs(300), 5, show) => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()), // dropping the call cancels it
    };
    if done.is_err() {
        stop(&mut stopping, request_id).await;
    }
    let done = done?;
    let image = done.images.first().ok_or("no image came")?;
    std::fs::write(file, &image.data)?;
    println!("{}", image.header.sha256);
    Ok(())
}

/// Ends a generation that would go on for nobody: after Ctrl-C, or when the time is up. One that has ended, or never began, is
/// left as it is.
async fn stop(client: &mut ImageGenClient<Channel>, request_id: String) {
    let mut request = Request::new(CancelGenerationRequest { request_id });
    request.set_timeout(Duration::from_secs(5));
    let _ = client.cancel_generation(request).await; // nobody may be there
}

fn show(response: &GenerateImageResponse) {
    match &response.event {
        Some(Event::Accepted(accepted)) => {
            let seed = accepted.plan.as_ref().map_or(0, |plan| plan.seed);
            eprintln!("accepted as {}, seed {seed}", response.request_id);
        }
        Some(Event::StepProgress(step)) => eprintln!(
            "{} {}/{}, {:.0} %",
            step.stage().as_str_name(),
            step.completed_steps,
            step.total_steps,
            100.0 * step.overall_fraction
        ),
        Some(Event::Fallback(fallback)) => eprintln!("fallback: {}", fallback.message),
        Some(Event::Warning(warning)) => eprintln!("warning: {}", warning.message),
        _ => {}
    }
}

fn explain(error: &(dyn Error + 'static)) {
    eprintln!("{error}");
    let Some(refusal) = error.downcast_ref::<Refusal>() else { return };
    for violation in &refusal.violations {
        eprintln!("  {}: {}", violation.field, violation.description);
    }
    if let Some(pause) = refusal.retry_after {
        eprintln!("  try again in {} ms", pause.as_millis());
    }
}
