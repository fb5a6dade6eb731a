//! One generation: follows the stream, puts the images together, checks their hashes, waits as long as the server asks.

use std::error::Error;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::{sleep, Instant};
use tonic::transport::Channel;
use tonic::Request;

use crate::pb::generate_image_response::Event;
use crate::pb::image_gen_client::ImageGenClient;
use crate::pb::{
    Completed, GenerateImageRequest, GenerateImageResponse, GenerationPlan, ImageChunk, ImageHeader, OnDisconnect,
    WatchGenerationRequest,
};
use crate::refusal::Refusal;

/// One received file. Its hash has been checked.
pub struct Image {
    pub header: ImageHeader,
    pub data: Vec<u8>,
}

/// What a generation came to.
#[derive(Default)]
pub struct Generation {
    pub request_id: String,
    pub plan: Option<GenerationPlan>,
    /// None with validate_only.
    pub completed: Option<Completed>,
    pub images: Vec<Image>,
    /// Of the last event that was received.
    sequence: i64,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long to wait before asking again for a generation whose server cannot be reached.
const RECONNECT: Duration = Duration::from_secs(1);

/// Runs a generation and returns its images.
///
/// A refusal that says when to come back is waited out and tried again, while there are attempts and time left. If the
/// connection breaks, and the request says ON_DISCONNECT_CONTINUE, the generation goes on and this re-attaches to it. Every
/// other failure of a call is a [`Refusal`]. Dropping the future cancels the call, which stops any
/// other generation, and the device.
pub async fn generate(
    client: &mut ImageGenClient<Channel>,
    request: GenerateImageRequest,
    timeout: Duration,
    attempts: usize,
    on_event: impl Fn(&GenerateImageResponse),
) -> Outcome<Generation> {
    let deadline = Instant::now() + timeout; // of all attempts together
    let mut generation = Generation::default();
    for attempt in 1.. {
        let ended = match generation.plan {
            None => generation.begin(client, &request, deadline, &on_event).await,
            Some(_) => generation.reattach(client, deadline, &on_event).await,
        };
        let Err(error) = ended else { break };
        let refusal = error.downcast::<Refusal>()?;
        if attempt >= attempts {
            return Err(refusal);
        }
        match (&generation.plan, refusal.retry_after) {
            (None, Some(pause)) if Instant::now() + pause < deadline => sleep(pause).await,
            (Some(_), _) if refusal.lost() && request.on_disconnect() == OnDisconnect::Continue => {}
            _ => return Err(refusal),
        }
    }
    generation.check(request.validate_only)?;
    Ok(generation)
}

impl Generation {
    async fn begin(
        &mut self,
        client: &mut ImageGenClient<Channel>,
        request: &GenerateImageRequest,
        deadline: Instant,
        on_event: impl Fn(&GenerateImageResponse),
    ) -> Outcome<()> {
        let mut stream =
            client.generate_image(until(deadline, request.clone())).await.map_err(Refusal::from)?.into_inner();
        while let Some(response) = stream.message().await.map_err(Refusal::from)? {
            on_event(&response);
            self.take(response)?;
        }
        Ok(())
    }

    /// Goes on where the last event left off; no event is missed.
    async fn reattach(
        &mut self,
        client: &mut ImageGenClient<Channel>,
        deadline: Instant,
        on_event: impl Fn(&GenerateImageResponse),
    ) -> Outcome<()> {
        let request = WatchGenerationRequest { request_id: self.request_id.clone(), after_sequence: self.sequence };
        let mut stream = loop {
            match client.watch_generation(until(deadline, request.clone())).await.map_err(Refusal::from) {
                Ok(response) => break response.into_inner(),
                // tonic does not wait for a connection, as gRPC elsewhere does
                Err(refusal) if refusal.lost() && Instant::now() + RECONNECT < deadline => sleep(RECONNECT).await,
                Err(refusal) => return Err(refusal.into()),
            }
        };
        while let Some(watched) = stream.message().await.map_err(Refusal::from)? {
            if let Some(response) = watched.response {
                on_event(&response);
                self.take(response)?;
            }
        }
        Ok(())
    }

    /// Puts one event in its place. Events that this client does not know are none of its business.
    fn take(&mut self, response: GenerateImageResponse) -> Outcome<()> {
        self.request_id = response.request_id;
        self.sequence = response.sequence;
        match response.event {
            Some(Event::Accepted(accepted)) => self.plan = accepted.plan,
            Some(Event::ImageHeader(header)) => self.images.push(Image { header, data: Vec::new() }),
            Some(Event::ImageChunk(chunk)) => self.append(&chunk)?,
            Some(Event::Completed(completed)) => self.completed = Some(completed),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, chunk: &ImageChunk) -> Outcome<()> {
        match self.images.last_mut() {
            Some(image) if image.header.image_index == chunk.image_index && image.data.len() as i64 == chunk.offset => {
                image.data.extend_from_slice(&chunk.data);
                Ok(())
            }
            _ => Err(format!("a chunk of image {} is missing", chunk.image_index).into()),
        }
    }

    /// Makes sure that everything came, and that it is what the server sent. Images arrive as they are ready.
    fn check(&mut self, validate_only: bool) -> Outcome<()> {
        if self.completed.is_none() && !validate_only {
            return Err("the stream ended before the generation did".into());
        }
        self.images.sort_by_key(|image| image.header.image_index);
        for image in &self.images {
            let hash: String = Sha256::digest(&image.data).iter().map(|byte| format!("{byte:02x}")).collect();
            if hash != image.header.sha256 {
                return Err(format!("image {} is damaged", image.header.image_index).into());
            }
        }
        Ok(())
    }
}

fn until<T>(deadline: Instant, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}
