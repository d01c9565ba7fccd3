//! How the C library's allocator deals with large blocks.
#![allow(unsafe_code, reason = "the allocator's settings are a C function")]

/// Blocks up to this size, bytes, are taken from the heap and not mapped each time: the largest value that glibc takes.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: i32 = 32 << 20;

/// Free bytes at the end of a heap that are kept for the next blocks.
#[cfg(target_env = "gnu")]
const KEPT: i32 = 32 << 20;

/// Has memory of buffers reused. glibc maps blocks of more than 128 KiB from the system and gives them back when they are
/// freed, until it has learned better; a broker fills some thousands of such buffers each second, and every page of each
/// would be zeroed by the kernel first. Other C libraries are left alone.
pub(crate) fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and may be called at any time; it only changes when memory goes back.
    // WHY: no crate offers it, and replacing the allocator was measured to bring nothing more.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// How often is looked whether the process rests.
#[cfg(target_env = "gnu")]
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// Ticks of the kernel's clock, a hundredth of a second each, that a process that rests has used since the last look.
#[cfg(target_env = "gnu")]
const RESTING: u64 = 2;

/// Starts a thread that gives free memory back whenever the process has come to rest. What is kept for the next burst
/// would else be held for as long as a backlog waits.
pub(crate) fn give_back_at_rest() -> std::io::Result<()> {
    #[cfg(target_env = "gnu")]
    std::thread::Builder::new().name("memory".to_owned()).stack_size(64 << 10).spawn(|| {
        let (mut before, mut resting) = (0, 0_u32);
        loop {
            std::thread::sleep(LOOK);
            let used = processor_ticks().unwrap_or(before);
            resting = if used - before <= RESTING { resting.saturating_add(1) } else { 0 };
            // Once more later: buffers are given up only after a while.
            if resting == 1 || resting == 3 {
                // SAFETY: malloc_trim takes a number and may be called at any time, on any thread.
                // WHY: no crate offers it.
                unsafe {
                    libc::malloc_trim(0);
                }
            }
            before = used;
        }
    })?;
    Ok(())
}

/// Processor time of this process since its start, in ticks.
#[cfg(target_env = "gnu")]
fn processor_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(times.next()? + times.next()?)
}
