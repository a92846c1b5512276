//! Whom a node asks whose log is not complete, and what it makes of the answers.

use super::*;

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().map(|id| NodeId::from(*id)).collect()
}

/// Node 1, which asks four voters and a learner.
fn asking() -> Rejoin {
    let membership = Membership { voters: nodes(&[1, 2, 3, 4, 5]), learners: nodes(&[9]) };
    Rejoin::new(1.into(), &membership, 70, 3)
}

fn state(term: u64, last: (u64, u64)) -> Result<PeerState, NoState> {
    Ok(PeerState { term, last })
}

fn asked(questions: &[Message]) -> Vec<u64> {
    questions.iter().map(|question| question.to().get()).collect()
}

#[test]
fn every_member_is_asked_until_all_have_answered_and_learners_promise_nothing() {
    let mut rejoin = asking();
    assert_eq!(asked(&rejoin.tick()), [2, 3, 4, 5, 9]);
    for (node, answer) in [
        (2, state(7, (3, 9))),
        (3, state(4, (4, 8))),
        (5, state(5, (4, 6))),
        (9, state(8, (8, 99))),
    ] {
        rejoin.handle_state(node.into(), 70, answer);
        assert_eq!(rejoin.obligation(), None, "four of five are not enough");
    }
    assert_eq!((asked(&rejoin.tick()), asked(&rejoin.tick())), (vec![], vec![]));
    assert_eq!((asked(&rejoin.tick()), rejoin.next_number()), (vec![4], 72));
    assert!(rejoin.account().ends_with("stands: node 4 has not answered"), "{}", rejoin.account());
    rejoin.handle_state(4.into(), 70, state(1, (1, 1)));
    assert_eq!(
        rejoin.obligation(),
        Some(PeerState { term: 7, last: (4, 8) }),
        "the newest term, and the log that ends last"
    );
}

/// It said that all had answered, and waited for ever.
#[test]
fn the_only_voter_says_that_no_other_node_knows_what_it_acknowledged() {
    let membership = Membership { voters: nodes(&[1]), learners: nodes(&[9]) };
    let mut rejoin = Rejoin::new(1.into(), &membership, 70, 3);
    rejoin.tick();
    rejoin.handle_state(9.into(), 70, state(7, (3, 9)));
    assert_eq!(rejoin.obligation(), None);
    assert!(rejoin.account().contains("no other node knows"), "{}", rejoin.account());
}

#[test]
fn an_answer_to_another_question_or_of_a_stranger_is_none() {
    let mut rejoin = Rejoin::new(1.into(), &Membership::of_voters(nodes(&[1, 2])), 70, 3);
    rejoin.tick();
    for (node, number) in [(2, 69), (2, 71), (2, 0), (3, 70), (1, 70)] {
        rejoin.handle_state(node.into(), number, state(1, (1, 1)));
        assert_eq!(rejoin.obligation(), None, "{number} of {node}");
    }
    rejoin.handle_state(2.into(), 70, state(1, (1, 1)));
    assert!(rejoin.obligation().is_some());
}

#[test]
fn one_that_is_not_complete_itself_answers_when_it_is() {
    let mut rejoin = Rejoin::new(1.into(), &Membership::of_voters(nodes(&[1, 2, 3])), 70, 1);
    rejoin.tick();
    rejoin.handle_state(2.into(), 70, Err(NoState::Incomplete));
    rejoin.handle_state(3.into(), 70, state(2, (2, 5)));
    let account = rejoin.account();
    assert!(
        account.contains(
            "the log of node 2 is not complete either. Two nodes that have lost their logs cannot"
        ),
        "{account}"
    );
    assert_eq!((rejoin.obligation(), asked(&rejoin.tick())), (None, vec![2]));
    rejoin.handle_state(3.into(), 71, Err(NoState::Corrupt));
    rejoin.handle_state(2.into(), 71, state(3, (1, 1)));
    assert_eq!(
        rejoin.obligation(),
        Some(PeerState { term: 3, last: (2, 5) }),
        "an answer that was given holds"
    );
}
