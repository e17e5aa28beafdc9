//! What is sound, and of another group.

use std::rc::Rc;
use viewring_protocol::{
    Checkpoint, ClientId, Configuration, Effect, Effects, Kind, OpNumber, Options, Progress,
    Replica, ReplicaId, Request, RequestNumber,
};

/// What timeouts would wait for: there are none here.
fn no_matter(_: Progress) {}

/// A checkpoint that is whole, and of another group, for a liar to offer.
pub(crate) fn checkpoint() -> Rc<Checkpoint> {
    let group = Configuration::new(1).expect("odd");
    let options = Options {
        checkpoint_interval: 3,
        ..Options::default()
    };
    let mut replica = Replica::founding_member(ReplicaId(0), group, options);
    let mut effects = Effects::new();
    for client in 0..3 {
        let register = Request {
            client: ClientId(client),
            session: OpNumber(0),
            number: RequestNumber(0),
            kind: Kind::Register,
            body: [].into(),
        };
        no_matter(replica.on_request(register, &mut effects));
    }
    no_matter(replica.flush(&mut effects));
    for _ in 0..2 {
        let due: Vec<_> = effects.drain().collect();
        for effect in due {
            match effect {
                Effect::Persist(order) => {
                    no_matter(replica.on_durable(order.written(), &mut effects))
                }
                Effect::Checkpoint(mut draft) => {
                    replica.checkpoint_begun(&draft, &mut effects);
                    while draft.write_clients(1) {}
                    draft.write_state(b"state");
                    return replica.on_checkpoint(draft);
                }
                _ => {}
            }
        }
    }
    panic!("a checkpoint was due");
}
