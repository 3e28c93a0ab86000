//! The gRPC services that nodes call, over a unix socket that only this machine's own node can open.
//!
//! Who calls is taken from the connection: here it is always the local node. A listener with TLS for other nodes puts the
//! identity of their certificate there instead; the services do not change.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use skep_model::{NodeId, ObjectId as _, SessionId, TaskId, TaskStatus};
use skep_raft::{Leadership, Raft};
use skep_wire::swarmkit;
use swarmkit::dispatcher_server::Dispatcher;
use swarmkit::health_server::Health;
use swarmkit::log_broker_server::LogBroker;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::StoreMachine;
use crate::dispatch::{Call, Calls, stopped};
use crate::logs::{Broker, Listening};

/// How long a call waits for this manager to lead before it is refused.
const LEADER_WAIT: Duration = Duration::from_secs(2);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The node.
    pub(crate) node: NodeId,
    /// Its address as seen from here.
    pub(crate) addr: String,
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::permission_denied("no node identity"))
}

fn session_id(text: &str) -> Result<SessionId, Status> {
    SessionId::parse(text).map_err(|_| Status::invalid_argument("session invalid"))
}

fn invalid(error: &dyn std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Sessions, heartbeats, assignments and statuses.
pub(crate) struct DispatcherService {
    pub(crate) calls: Arc<Calls>,
}

impl DispatcherService {
    async fn call<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T, Status>>) -> Call) -> Result<T, Status> {
        let mut calls = self.calls.subscribe();
        let desk: mpsc::Sender<Call> = {
            let known = tokio::time::timeout(LEADER_WAIT, calls.wait_for(Option::is_some)).await;
            match known {
                Ok(Ok(desk)) => desk.as_ref().ok_or_else(stopped)?.clone(),
                _ => return Err(stopped()),
            }
        };
        let (answer, result) = oneshot::channel();
        desk.send(make(answer)).await.map_err(|_| stopped())?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = ReceiverStream<Result<swarmkit::SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<swarmkit::AssignmentsMessage, Status>>;
    type TasksStream = Boxed<swarmkit::TasksMessage>;

    async fn session(
        &self,
        request: Request<swarmkit::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let Caller { node, addr } = caller(&request)?;
        let request = request.into_inner();
        let description = request.description.unwrap_or_default().try_into().map_err(|error| invalid(&error))?;
        // A session of another manager means nothing here and is no mistake.
        let previous = SessionId::parse(&request.session_id).ok();
        let description = Box::new(description);
        let stream = self.call(|answer| Call::Session { node, description, addr, previous, answer }).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn heartbeat(
        &self,
        request: Request<swarmkit::HeartbeatRequest>,
    ) -> Result<Response<swarmkit::HeartbeatResponse>, Status> {
        let Caller { node, .. } = caller(&request)?;
        let session = session_id(&request.into_inner().session_id)?;
        let period = self.call(|answer| Call::Heartbeat { node, session, answer }).await?;
        Ok(Response::new(swarmkit::HeartbeatResponse { period: Some(skep_wire::duration(period)) }))
    }

    async fn update_task_status(
        &self,
        request: Request<swarmkit::UpdateTaskStatusRequest>,
    ) -> Result<Response<swarmkit::UpdateTaskStatusResponse>, Status> {
        let Caller { node, .. } = caller(&request)?;
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let updates = request.updates.into_iter().map(task_status).collect::<Result<Vec<_>, Status>>()?;
        self.call(|answer| Call::Report { node, session, updates, answer }).await?;
        Ok(Response::new(swarmkit::UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        request: Request<swarmkit::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let Caller { node, .. } = caller(&request)?;
        let session = session_id(&request.into_inner().session_id)?;
        let stream = self.call(|answer| Call::Assignments { node, session, answer }).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn update_volume_status(
        &self,
        _: Request<swarmkit::UpdateVolumeStatusRequest>,
    ) -> Result<Response<swarmkit::UpdateVolumeStatusResponse>, Status> {
        Err(Status::unimplemented("cluster volumes are not supported by this version of skep"))
    }

    async fn tasks(&self, _: Request<swarmkit::TasksRequest>) -> Result<Response<Self::TasksStream>, Status> {
        Err(Status::unimplemented("use Assignments"))
    }
}

fn task_status(update: swarmkit::update_task_status_request::TaskStatusUpdate) -> Result<(TaskId, TaskStatus), Status> {
    let id = TaskId::parse(&update.task_id).map_err(|error| invalid(&error))?;
    let status = TaskStatus::try_from(update.status.unwrap_or_default()).map_err(|error| invalid(&error))?;
    Ok((id, status))
}

/// Log streams.
pub(crate) struct LogBrokerService {
    pub(crate) broker: Broker,
    pub(crate) raft: Raft<StoreMachine>,
}

#[tonic::async_trait]
impl LogBroker for LogBrokerService {
    type ListenSubscriptionsStream = Listening;

    async fn listen_subscriptions(
        &self,
        request: Request<swarmkit::ListenSubscriptionsRequest>,
    ) -> Result<Response<Listening>, Status> {
        let Caller { node, .. } = caller(&request)?;
        Ok(Response::new(self.broker.listen(node, &self.raft.state().state)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<swarmkit::PublishLogsMessage>>,
    ) -> Result<Response<swarmkit::PublishLogsResponse>, Status> {
        let Caller { node, .. } = caller(&request)?;
        let mut messages = request.into_inner();
        let mut publishing = None;
        while let Some(message) = messages.message().await? {
            if publishing.is_none() {
                publishing = Some(self.broker.publish(node, &message.subscription_id)?);
            }
            let is_last = message.close;
            if let Some(open) = &mut publishing {
                open.pass(message).await?;
            }
            if is_last {
                if let Some(open) = publishing.take() {
                    open.close();
                }
                break;
            }
        }
        Ok(Response::new(swarmkit::PublishLogsResponse {}))
    }
}

/// Says whether this manager serves.
pub(crate) struct HealthService {
    pub(crate) raft: Raft<StoreMachine>,
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        _: Request<swarmkit::HealthCheckRequest>,
    ) -> Result<Response<swarmkit::HealthCheckResponse>, Status> {
        use swarmkit::health_check_response::ServingStatus;
        let status = match *self.raft.leadership().borrow() {
            Leadership::Stopped => ServingStatus::NotServing,
            Leadership::Leading { .. } | Leadership::Following => ServingStatus::Serving,
        };
        Ok(Response::new(swarmkit::HealthCheckResponse { status: status.into() }))
    }
}
