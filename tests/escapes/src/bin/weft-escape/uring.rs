//! connect by io_uring: one entry submitted, one completion waited for.
//!
//! Straight on the three things of the kernel's interface that this needs (`linux/io_uring.h`); no crate knows less.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{SockAddr, Socket};

const IORING_SETUP_SQPOLL: u32 = 1 << 1;
const IORING_FEAT_SINGLE_MMAP: u32 = 1;
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_SQES: i64 = 0x1000_0000;
const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_ENTER_SQ_WAKEUP: u32 = 2;
const IORING_OP_CONNECT: u8 = 16;
const SQE: usize = 64;

#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn map(ring: &OwnedFd, length: usize, offset: i64) -> io::Result<*mut u8> {
    // SAFETY: a new shared mapping of the ring's own memory; nothing that exists is touched.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            ring.as_raw_fd(),
            offset,
        )
    };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
}

/// Connects, with the calling thread submitting or (`sqpoll`) a thread of the kernel's.
pub(super) fn connect(socket: &Socket, to: &SockAddr, sqpoll: bool) -> io::Result<()> {
    let mut params = Params { flags: if sqpoll { IORING_SETUP_SQPOLL } else { 0 }, ..Params::default() };
    params.sq_thread_idle = 1000;
    // SAFETY: the structure has the kernel's layout and lives through the call; the descriptor is new and ours.
    let ring = unsafe {
        let fd = check(libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    if params.features & IORING_FEAT_SINGLE_MMAP == 0 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let sq_length = params.sq.array as usize + params.sq_entries as usize * 4;
    let cq_length = params.cq.cqes as usize + params.cq_entries as usize * 16;
    let rings = map(&ring, sq_length.max(cq_length), IORING_OFF_SQ_RING)?;
    let entries = map(&ring, params.sq_entries as usize * SQE, IORING_OFF_SQES)?;
    let word = |offset: u32| {
        // SAFETY: the offset is the kernel's own into the mapping, aligned for a word; both sides access it atomically.
        unsafe { AtomicU32::from_ptr(rings.add(offset as usize).cast()) }
    };
    // SAFETY: entry 0 is within the mapping, SQE bytes long, and the kernel does not look at it before the tail moves.
    // `to` outlives the operation, which is waited for below.
    unsafe {
        ptr::write_bytes(entries, 0, SQE);
        entries.write(IORING_OP_CONNECT);
        entries.add(4).cast::<i32>().write(socket.as_raw_fd());
        entries.add(8).cast::<u64>().write(u64::from(to.len()));
        entries.add(16).cast::<u64>().write(to.as_ptr() as u64);
    }
    word(params.sq.array).store(0, Ordering::Relaxed);
    word(params.sq.tail).fetch_add(1, Ordering::Release);
    let flags = IORING_ENTER_GETEVENTS | if sqpoll { IORING_ENTER_SQ_WAKEUP } else { 0 };
    let none: *const libc::sigset_t = ptr::null();
    loop {
        // SAFETY: a system call on integers and a null pointer, which it allows.
        let entered = check(unsafe {
            libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), u32::from(!sqpoll), 1, flags, none, 0)
        });
        let head = word(params.cq.head).load(Ordering::Relaxed);
        if word(params.cq.tail).load(Ordering::Acquire) != head {
            let mask = word(params.cq.ring_mask).load(Ordering::Relaxed);
            let at = params.cq.cqes + (head & mask) * 16 + 8;
            // SAFETY: the completion that the tail says is there, within the mapping; its result is an i32 at byte 8.
            let result = unsafe { rings.add(at as usize).cast::<i32>().read() };
            return if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        }
        entered?;
    }
}
