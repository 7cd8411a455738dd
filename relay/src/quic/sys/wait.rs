//! Sleeping until a socket, a deadline or another thread calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// A [`Waker`] called since the last wait.
    pub called: bool,
    /// One of the sockets watched has input.
    pub input: bool,
}

/// Sleeps a thread until input, a call of its [`Waker`], or a timeout.
///
/// It watches two or three descriptors, for which `ppoll` costs less than keeping an `epoll` set
/// and takes its timeout in nanoseconds on every kernel.
pub struct Waiter {
    waker: Waker,
    polls: Vec<libc::pollfd>,
}

impl Waiter {
    /// A waiter with a waker of its own.
    ///
    /// # Errors
    /// When the process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned `fd`, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { waker: Waker(Arc::new(fd)), polls: Vec::with_capacity(4) })
    }

    /// A handle that ends this waiter's wait, from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for a call, for input on one of `sockets`, or for `timeout`; `None` waits for ever.
    ///
    /// With no sockets, input gathers in the kernel while the thread sleeps, and is then handled in
    /// one batch.
    ///
    /// # Errors
    /// What `ppoll` reports, interruptions excepted.
    pub fn wait(
        &mut self,
        sockets: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<Woken> {
        self.polls.clear();
        self.polls.push(watch(self.waker.0.as_fd()));
        self.polls.extend(sockets.iter().map(|&socket| watch(socket)));
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `polls` holds as many entries as it is said to, `timeout` is null or points to a
        // `timespec` that lives to the end of this function, and no signal mask is passed.
        let ready = unsafe {
            libc::ppoll(
                self.polls.as_mut_ptr(),
                self.polls.len() as libc::nfds_t,
                timeout,
                ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Woken::default()),
                _ => Err(error),
            };
        }
        let called = self.polls[0].revents != 0;
        if called {
            self.waker.reset();
        }
        Ok(Woken { called, input: self.polls[1..].iter().any(|poll| poll.revents != 0) })
    }
}

/// Ends the wait of a [`Waiter`]; calls between two waits count once.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Ends the waiter's current wait, or its next one.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are written from a `u64` on this stack. The only failure of an eventfd
        // is a counter at its maximum, and then the waiter is awake already.
        unsafe {
            libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast(), 8);
        }
    }

    fn reset(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are read into a `u64` on this stack; an eventfd that is already at
        // zero reports so and leaves it.
        unsafe {
            libc::read(self.0.as_raw_fd(), ptr::from_mut(&mut count).cast(), 8);
        }
    }
}

/// Keeps the calling thread on CPU `core`.
///
/// # Errors
/// When there is no such CPU, or the process may not use it.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    const CORES: usize = 8 * size_of::<libc::cpu_set_t>();
    if core >= CORES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {core} is beyond the {CORES} that the kernel's set holds"),
        ));
    }
    // SAFETY: `cpu_set_t` is an array of integers, for which all zeroes is the empty set; `core` is
    // within it; the kernel reads as many bytes as the set has, of the calling thread (0).
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time, user and system, that the calling thread has spent.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` on this stack.
    unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
    }
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn watch(fd: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_the_wait_once() {
        let mut waiter = Waiter::new().unwrap();
        let waker = waiter.waker();
        std::thread::spawn(move || {
            waker.wake();
            waker.wake();
        })
        .join()
        .unwrap();
        let woken = waiter.wait(&[], None).unwrap();
        assert!(woken.called && !woken.input);
        let woken = waiter.wait(&[], Some(Duration::from_micros(50))).unwrap();
        assert_eq!(woken, Woken::default());
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        std::thread::spawn(|| {
            pin_to_core(0).unwrap();
            assert!(pin_to_core(100_000).is_err());
            assert!(thread_cpu_time() > Duration::ZERO);
        })
        .join()
        .unwrap();
    }
}
