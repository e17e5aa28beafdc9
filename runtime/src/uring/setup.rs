//! Making a ring: the ladder of setup flags, what was granted, and what to do when it fails.

use std::fmt;
use std::io;

use io_uring::{Builder, IoUring, Probe, opcode};
use thiserror::Error;

/// What the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Completions are posted only when the runtime asks (`DEFER_TASKRUN`, Linux 6.1): no
    /// interrupts from other cores. `false`: an older way, slower.
    pub deferred_task_run: bool,
    /// The kernel tells in shared memory that completions wait (`TASKRUN_FLAG`, Linux 5.19), so
    /// that an idle look costs no system call.
    pub task_run_flag: bool,
    /// The ring belongs to one thread (`SINGLE_ISSUER`, Linux 6.0).
    pub single_issuer: bool,
    /// A runtime can wake another through the rings (`MSG_RING`, Linux 5.18).
    pub message_ring: bool,
    /// Submission queue entries.
    pub submission_entries: u32,
    /// Completion queue entries.
    pub completion_entries: u32,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |granted| if granted { "yes" } else { "no" };
        write!(
            f,
            "io_uring: deferred task run {}, task run flag {}, single issuer {}, message ring {}, \
             {} submission and {} completion entries",
            yes_no(self.deferred_task_run),
            yes_no(self.task_run_flag),
            yes_no(self.single_issuer),
            yes_no(self.message_ring),
            self.submission_entries,
            self.completion_entries,
        )
    }
}

/// Why there is no ring, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// `ENOSYS`: the kernel does not know io_uring.
    #[error(
        "this kernel has no io_uring (or a sandbox hides it): Viewring needs Linux 6.1 or newer"
    )]
    Missing,
    /// `EPERM` and the sysctl says why.
    #[error(
        "io_uring is switched off: the sysctl kernel.io_uring_disabled is {0}; \
         set it to 0 (sysctl -w kernel.io_uring_disabled=0){1}"
    )]
    Disabled(u32, &'static str),
    /// `EPERM` and the sysctl permits it.
    #[error(
        "io_uring is forbidden to this process, probably by a seccomp filter: in a container, \
         run with a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden,
    /// `ENOMEM`.
    #[error(
        "not enough lockable memory for a ring: raise the limit (ulimit -l, LimitMEMLOCK=) or the \
         cgroup's memory"
    )]
    Memory,
    /// `EMFILE` or `ENFILE`.
    #[error("too many open files for another ring: raise the limit (ulimit -n, LimitNOFILE=)")]
    Files,
    /// The ring works but lacks something that cannot be done without.
    #[error("this kernel's io_uring has no {0}: Viewring needs Linux 6.1 or newer")]
    TooOld(&'static str),
    /// Anything else.
    #[error("cannot set up io_uring: {0}")]
    Other(#[source] io::Error),
}

impl SetupError {
    pub(super) fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => Self::of_denied(),
            Some(libc::ENOMEM) => Self::Memory,
            Some(libc::EMFILE | libc::ENFILE) => Self::Files,
            _ => Self::Other(error),
        }
    }

    fn of_denied() -> Self {
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        match sysctl.ok().and_then(|text| text.trim().parse().ok()) {
            Some(1) => Self::Disabled(1, ", or add this user's group to kernel.io_uring_group"),
            Some(value) if value != 0 => Self::Disabled(value, ""),
            _ => Self::Forbidden,
        }
    }
}

/// Makes the best ring that the kernel grants.
pub(super) fn build(
    submission_entries: u32,
    completion_entries: u32,
) -> Result<(IoUring, Capabilities), SetupError> {
    let base = |builder: &mut Builder| {
        builder
            .setup_clamp()
            .setup_cqsize(completion_entries)
            .dontfork();
    };
    let deferred = |builder: &mut Builder| {
        base(builder);
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        builder.setup_submit_all();
    };
    let cooperative = |builder: &mut Builder| {
        base(builder);
        builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
    };
    /// How a ring is asked for, and whether that is with: deferred task run, task run flag, single
    /// issuer.
    type Rung<'a> = (&'a dyn Fn(&mut Builder), [bool; 3]);
    let rungs: [Rung<'_>; 3] = [
        (&deferred, [true, true, true]),      // Linux 6.1
        (&cooperative, [false, true, false]), // Linux 5.19
        (&base, [false, false, false]),
    ];
    let mut refused = None;
    for (setup, [deferred_task_run, task_run_flag, single_issuer]) in rungs {
        let mut builder = IoUring::builder();
        setup(&mut builder);
        match builder.build(submission_entries) {
            Ok(ring) => {
                let capabilities = Capabilities {
                    deferred_task_run,
                    task_run_flag,
                    single_issuer,
                    message_ring: probe(&ring)?,
                    submission_entries: ring.params().sq_entries(),
                    completion_entries: ring.params().cq_entries(),
                };
                return Ok((ring, capabilities));
            }
            // A flag that this kernel does not know: one rung down.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(SetupError::of(error)),
        }
    }
    Err(SetupError::of(refused.unwrap_or_else(|| {
        io::Error::from_raw_os_error(libc::EINVAL)
    })))
}

/// Checks what cannot be done without; tells whether rings can message one another.
fn probe(ring: &IoUring) -> Result<bool, SetupError> {
    if !ring.params().is_feature_nodrop() {
        return Err(SetupError::TooOld(
            "reliable completions (IORING_FEAT_NODROP)",
        ));
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(SetupError::of)?;
    let needed = [
        (opcode::Send::CODE, "send"),
        (opcode::RecvMsgMulti::CODE, "receive"),
        (opcode::Timeout::CODE, "timeout"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::OpenAt::CODE, "open"),
        (opcode::Statx::CODE, "statx"),
        (opcode::Close::CODE, "close"),
    ];
    for (code, name) in needed {
        if !probe.is_supported(code) {
            return Err(SetupError::TooOld(name));
        }
    }
    Ok(probe.is_supported(opcode::MsgRingData::CODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: i32) -> String {
        SetupError::of(io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn an_error_names_its_cause_and_its_cure() {
        assert!(of(libc::ENOSYS).contains("Linux 6.1"));
        assert!(of(libc::ENOMEM).contains("ulimit -l"));
        assert!(of(libc::EMFILE).contains("ulimit -n"));
        assert!(
            of(libc::EPERM).contains("seccomp") || of(libc::EPERM).contains("io_uring_disabled")
        );
        assert!(
            SetupError::Disabled(2, "")
                .to_string()
                .contains("sysctl -w")
        );
    }
}
