//! Launches captured into a CUDA graph.

use super::super::driver::Replay;
use super::shared::{Shared, failed};
use crate::error::{Error, Result};
use crate::launch::NodeLaunches;
use cudarc::driver::{result, sys};
use std::sync::Arc;
use std::time::Duration;

/// The launches of a plan, captured once.
pub(super) struct Captured {
    shared: Arc<Shared>,
    executable: sys::CUgraphExec,
    nodes: Vec<NodeLaunches>,
}

// SAFETY: see `Shared`.
unsafe impl Send for Captured {}

impl Captured {
    /// Captures the launches of `nodes` in order.
    pub fn record(shared: &Arc<Shared>, nodes: Vec<NodeLaunches>) -> Result<Captured> {
        shared.enter()?;
        // SAFETY: the stream belongs to this device, and nothing else records on it meanwhile.
        let graph = unsafe {
            result::stream::begin_capture(shared.stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                .map_err(failed("recording"))?;
            let launched = nodes.iter().try_for_each(|n| shared.run(n));
            // The capture is ended even after a failed launch, so that the stream stays usable. It
            // may then leave no graph.
            let captured = result::stream::end_capture(shared.stream).map_err(failed("recording"));
            if let (Err(_), Ok(graph)) = (&launched, &captured)
                && !graph.is_null()
            {
                let _ = result::graph::destroy(*graph);
            }
            launched?;
            captured?
        };
        // SAFETY: the graph was captured just before.
        let executable = unsafe {
            let executable =
                result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(failed("recording"));
            let _ = result::graph::destroy(graph);
            executable?
        };
        Ok(Captured { shared: shared.clone(), executable, nodes })
    }
}

impl Replay for Captured {
    fn run(&mut self) -> Result<()> {
        self.shared.enter()?;
        // SAFETY: the executable graph lives as long as `self`.
        unsafe { result::graph::launch(self.executable, self.shared.stream).map_err(failed("launching the step")) }
    }
    fn run_node(&mut self, k: usize) -> Result<()> {
        self.shared.enter()?;
        let node = &self.nodes[k];
        let named = |e: Error| {
            let kernels: Vec<_> = node.launches.iter().map(|l| l.kernel.as_str()).collect();
            Error::Failed(format!("node {} ({}): {e}", node.node, kernels.join(", ")))
        };
        self.shared.run(node).and_then(|()| self.shared.synchronize()).map_err(named)
    }
    fn time(&mut self) -> Result<Duration> {
        self.shared.enter()?;
        let stream = self.shared.stream;
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("event"));
        let (start, end) = (event()?, event()?);
        let milliseconds = || {
            // SAFETY: both events belong to this context; the executable graph lives as long as
            // `self`.
            unsafe {
                result::event::record(start, stream).map_err(failed("event"))?;
                result::graph::launch(self.executable, stream).map_err(failed("launching"))?;
                result::event::record(end, stream).map_err(failed("event"))?;
                result::event::synchronize(end).map_err(failed("the timed launches"))?;
                result::event::elapsed(start, end).map_err(failed("event"))
            }
        };
        let milliseconds = milliseconds();
        // SAFETY: the events are not used any more.
        unsafe {
            let _ = result::event::destroy(start);
            let _ = result::event::destroy(end);
        }
        Ok(Duration::from_secs_f64(f64::from(milliseconds?) * 1e-3))
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: nothing replays the graph once the stream is idle.
        unsafe {
            let _ = self.shared.enter();
            let _ = result::stream::synchronize(self.shared.stream);
            let _ = result::graph::exec_destroy(self.executable);
        }
    }
}
