//! Memory for compressed parts.

use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

/// From this size on, a buffer is mapped by itself. The allocator would keep such blocks when they are freed, in each
/// thread's own heap: a push then holds several times what it uses. What is unmapped is gone at once.
const MAPPED_FROM: usize = 256 << 10;

/// A buffer of fixed capacity. Memory is taken as it fills.
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
    /// An empty one.
    ///
    /// # Errors
    /// The system has no memory.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let memory = if capacity < MAPPED_FROM {
            Memory::Heap(vec![0; capacity])
        } else {
            Memory::Mapped(MmapMut::map_anon(capacity)?)
        };
        Ok(Self { memory, filled: 0 })
    }

    /// Takes as much as there is room for, and tells how much that was.
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

    /// Whether there is no room left.
    pub(super) fn is_full(&self) -> bool {
        let capacity = match &self.memory {
            Memory::Heap(memory) => memory.len(),
            Memory::Mapped(memory) => memory.len(),
        };
        self.filled == capacity
    }

    /// What was filled in, to be sent; the memory goes when the last of it does.
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
    fn a_buffer_holds_what_fits() {
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
