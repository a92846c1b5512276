//! Any bytes, taken for a message of a peer.

use bytes::Bytes;

use super::{Message, View};
use crate::batch::fuzzing::with_sound_payloads;
use crate::entry::NodeId;
use crate::fuzzing::Dish;
use crate::role::Membership;

/// Any bytes either are refused, or are a message that would be written as it came; and whatever it says can be judged.
pub fn message(input: &[u8]) {
    let mut dish = Dish(input);
    let seat = Seat { how: dish.byte(), term: dish.u64(), commit: dish.u64(), last: dish.u64() };
    let bytes = Bytes::copy_from_slice(dish.0);
    let Ok(message) = Message::decode(bytes.clone()) else { return };
    assert_eq!(message.encoded_len(), bytes.len());
    assert_eq!(message.encode().concat(), bytes, "a message is written in one way");
    seat.judge(&message);
    let Some(mut inner) = message.into_raft() else { return };
    for entry in inner.mut_entries().iter_mut() {
        entry.data = Bytes::from(with_sound_payloads(entry.data.to_vec()));
    }
    seat.judge(&Message::new(inner));
}

/// Where the replica stands that receives it.
struct Seat {
    how: u8,
    term: u64,
    commit: u64,
    last: u64,
}

impl Seat {
    fn judge(&self, message: &Message) {
        let leads = self.how & 1 == 1;
        let leader = NodeId::from(u64::from(self.how >> 1 & 3));
        let view = View {
            me: NodeId::from(1),
            membership: &Membership::of_voters([1, 2, 3].map(NodeId::from)),
            leads,
            leader: if leads { Some(NodeId::from(1)) } else { Some(leader).filter(|leader| leader.get() > 1) },
            term: self.term,
            commit: self.commit.min(self.last),
            last: self.last,
            term_at: &|index| (index <= self.last).then(|| self.term.min(index)),
        };
        let _ = message.check(&view).map_err(|refusal| (refusal.is_fatal(), refusal.to_string()));
        let _ = (message.needs_room(), format!("{message:?}"));
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use crate::batch::fuzzing::body_of;

    let mut messages = Message::specimens(NodeId::from(2), NodeId::from(1));
    messages.push(Message::forge(&["append", "from=2", "to=1", "term=3", "after=5/2", "batch=6/3", "batch=7/3:0:hello", "commit=5"]));
    messages.push(Message::forge(&["take-over", "from=2", "to=1", "term=3"]));
    messages.push(Message::forge(&["rebase", "from=2", "to=1", "term=3", "base=5/2", "voters=1,2", "data=xyz"]));
    let mut long = messages[7].inner().clone();
    long.mut_entries()[1].data = body_of(&[b"one", b"", b"three"]);
    messages.push(Message::new(long));
    messages.extend(super::repair::specimens(NodeId::from(2), NodeId::from(1)));
    for message in &mut messages {
        let super::Content::Raft(inner) = &mut message.0 else { continue };
        for entry in inner.mut_entries().iter_mut().filter(|entry| entry.data.len() > 1_000) {
            entry.data.truncate(1_000);
        }
    }
    let seat = |how: u8| [&[how][..], &[3_u64, 5, 10].map(u64::to_le_bytes).concat()].concat();
    let seats = [seat(4), seat(1)];
    seats.iter().flat_map(|seat| messages.iter().map(move |message| [&seat[..], &message.encode().concat()].concat())).collect()
}
