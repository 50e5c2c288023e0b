//! A buffer of fixed capacity for a compressed part.

use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

/// The capacity in bytes from which a buffer is a memory mapping of its own. The allocator keeps freed blocks of this
/// size in the heap of each thread, so that a push would hold several times the memory that it uses. An unmapped buffer
/// frees its memory at once.
const MAPPED_FROM: usize = 256 << 10;

/// A buffer of fixed capacity. A mapped buffer takes memory only as it is filled.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Memory,
    filled: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl Buffer {
    /// An empty buffer for `capacity` bytes.
    ///
    /// # Errors
    /// When the system has no memory.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let memory = if capacity < MAPPED_FROM {
            Memory::Heap(vec![0; capacity])
        } else {
            Memory::Mapped(MmapMut::map_anon(capacity)?)
        };
        Ok(Self { memory, filled: 0 })
    }

    /// Copies as many of `bytes` as the buffer has room for. The result is the number of bytes copied.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let memory = match &mut self.memory {
            Memory::Heap(memory) => memory.as_mut_slice(),
            Memory::Mapped(memory) => memory,
        };
        let room = &mut memory[self.filled..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Whether the buffer has no room left.
    pub(super) fn is_full(&self) -> bool {
        let capacity = match &self.memory {
            Memory::Heap(memory) => memory.len(),
            Memory::Mapped(memory) => memory.len(),
        };
        self.filled == capacity
    }

    /// The bytes in the buffer. The memory is freed when the last clone of the result is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(memory) => &memory[..self.filled],
            Memory::Mapped(memory) => &memory[..self.filled],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_filled_up_to_its_capacity() {
        for capacity in [1, 1000, MAPPED_FROM, MAPPED_FROM + 1] {
            let mut buffer = Buffer::new(capacity).unwrap();
            assert!(!buffer.is_full());
            let bytes: Vec<u8> = (0..=255).cycle().take(capacity + 10).collect();
            let first = buffer.fill(&bytes[..capacity / 2]);
            assert_eq!(first, capacity / 2);
            assert_eq!(buffer.fill(&bytes[first..]), capacity - first);
            assert!(buffer.is_full());
            assert_eq!(buffer.fill(b"more"), 0);
            assert_eq!(buffer.into_bytes(), bytes[..capacity]);
        }
    }
}
