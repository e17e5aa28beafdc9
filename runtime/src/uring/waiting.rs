//! Sends that wait for room in their socket's buffer, in the order in which they came.
//!
//! The kernel takes a send while the buffer is not full; but those for which it was full it wakes
//! when half of it is free. Whoever waits there is overtaken by all that is sent meanwhile, for as
//! long as that keeps the buffer more than half full. So who found no room stands in line here, and
//! who comes later behind it. Only the first few are *called*: handed to the kernel, to wait there.
//! When all of them are out, the next ones are. A send is overtaken by those who were called with
//! it, and by those who came while nobody knew yet that it had found no room, since so many were
//! tried at once; and by no others.

use std::collections::VecDeque;

use crate::reactor::{OpKey, SocketId};

/// So many are called together: fewer would cost a system call each, more would be overtaken by
/// more.
const CALLED_MAX: usize = 32;

#[derive(Default)]
pub(super) struct Waiting {
    /// By socket.
    lines: Vec<Line>,
}

/// As long as those bear who line up, and bounded by the operations in flight on its socket. Nobody
/// is behind while nobody is called.
#[derive(Default)]
struct Line {
    called: Vec<OpKey>,
    behind: VecDeque<OpKey>,
}

impl Waiting {
    /// Whether somebody waits on `socket`: who comes now stands in line.
    pub(super) fn is_line(&self, socket: SocketId) -> bool {
        let line = self.lines.get(socket.0 as usize);
        line.is_some_and(|line| !line.called.is_empty())
    }

    /// How many wait on `socket`.
    pub(super) fn len(&self, socket: SocketId) -> usize {
        let line = self.lines.get(socket.0 as usize);
        line.map_or(0, |line| line.called.len() + line.behind.len())
    }

    /// Puts `key` at the end of the line; [`call`](Self::call) the next ones then.
    pub(super) fn line_up(&mut self, socket: SocketId, key: OpKey) {
        let index = socket.0 as usize;
        if self.lines.len() <= index {
            self.lines.resize_with(index + 1, Line::default);
        }
        self.lines[index].behind.push_back(key);
    }

    /// Takes `key` out of the line, wherever it is. Whether it had been called; if so,
    /// [`call`](Self::call) the next ones.
    pub(super) fn leave(&mut self, socket: SocketId, key: OpKey) -> bool {
        let Some(line) = self.lines.get_mut(socket.0 as usize) else {
            return false;
        };
        if let Some(place) = line.called.iter().position(|&called| called == key) {
            line.called.remove(place);
            return true;
        }
        if let Some(place) = line.behind.iter().position(|&behind| behind == key) {
            line.behind.remove(place);
        }
        false
    }

    /// The next ones, if all who were called have left: they are called now.
    pub(super) fn call(&mut self, socket: SocketId) -> Vec<OpKey> {
        let Some(line) = self.lines.get_mut(socket.0 as usize) else {
            return Vec::new();
        };
        if !line.called.is_empty() {
            return Vec::new();
        }
        let next = line.behind.len().min(CALLED_MAX);
        line.called.extend(line.behind.drain(..next));
        line.called.clone()
    }

    /// Everybody who was called and has not left.
    pub(super) fn called(&self) -> Vec<OpKey> {
        let called = self.lines.iter().flat_map(|line| &line.called);
        called.copied().collect()
    }

    /// Ends all lines. Gives those who were not called: the kernel knows nothing of them.
    pub(super) fn clear(&mut self) -> Vec<OpKey> {
        let lines = std::mem::take(&mut self.lines).into_iter();
        lines.flat_map(|line| line.behind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: SocketId = SocketId(3);

    fn key(index: u32) -> OpKey {
        OpKey {
            index,
            generation: 7,
        }
    }

    fn keys(indices: impl IntoIterator<Item = u32>) -> Vec<OpKey> {
        indices.into_iter().map(key).collect()
    }

    #[test]
    fn the_next_are_called_when_all_before_them_have_left_whatever_the_way() {
        let mut waiting = Waiting::default();
        assert!(!waiting.is_line(SOCKET));
        let mut called = Vec::new();
        for index in 0..40 {
            waiting.line_up(SOCKET, key(index));
            called.push(waiting.call(SOCKET));
        }
        // The first one alone: nobody was behind it.
        assert_eq!(called[0], keys([0]));
        assert!(called[1..].iter().all(Vec::is_empty));
        assert!(waiting.is_line(SOCKET) && !waiting.is_line(SocketId(0)));
        assert!(!waiting.leave(SOCKET, key(5)), "it was not called");
        assert!(waiting.leave(SOCKET, key(0)));
        let next = waiting.call(SOCKET);
        assert_eq!(next, keys((1..34).filter(|&index| index != 5)));
        assert_eq!(waiting.called(), next);
        for (left, &key) in next.iter().enumerate() {
            assert!(waiting.call(SOCKET).is_empty(), "{left} of 32 have left");
            assert!(waiting.leave(SOCKET, key));
        }
        assert_eq!(waiting.call(SOCKET), keys(34..40));
        for index in 34..40 {
            waiting.leave(SOCKET, key(index));
        }
        assert!(waiting.call(SOCKET).is_empty() && !waiting.is_line(SOCKET));
    }

    #[test]
    fn those_who_were_never_called_are_known_at_the_end() {
        let mut waiting = Waiting::default();
        for index in 0..3 {
            waiting.line_up(SOCKET, key(index));
            waiting.call(SOCKET);
        }
        assert_eq!(waiting.clear(), keys([1, 2]));
        assert!(waiting.called().is_empty() && !waiting.is_line(SOCKET));
    }
}
