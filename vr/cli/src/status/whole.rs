//! Whether a group is whole, judged by what its replicas say of themselves and of one another.

use viewring::Status;

/// The most replicas that are normal members of one group in the same view, whose primary is one of
/// them.
pub(super) fn normal_in_one_view(answers: &[Option<Status>]) -> usize {
    let answers = answers.iter().flatten();
    let normal: Vec<_> = answers.filter(|answer| answer.status == "normal").collect();
    let led = normal.iter().filter(|answer| answer.role == "primary");
    led.map(|primary| {
        let with_it =
            |answer: &&&Status| answer.view == primary.view && are_of_one(answer, primary);
        normal.iter().filter(with_it).count()
    })
    .max()
    .unwrap_or(0)
}

/// Who is no member tells no group, and nor does an older program.
fn are_of_one(one: &Status, other: &Status) -> bool {
    one.group.is_none() || other.group.is_none() || one.group == other.group
}

/// Replicas that belong elsewhere than their place in the file says, a sentence each.
pub(super) fn misfits(answers: &[Option<Status>]) -> Vec<String> {
    let ours = group_of_most(answers);
    let of = |(place, answer): (usize, &Option<Status>)| {
        let answer = answer.as_ref()?;
        if usize::from(answer.id) != place {
            return Some(format!(
                "replica {place} calls itself replica {}: are the files in another order?",
                answer.id
            ));
        }
        let is_of_another = answer.group.is_some() && answer.group != ours;
        is_of_another.then(|| {
            format!(
                "replica {place} belongs to another group: mend its configuration before any \
                 replica is restarted"
            )
        })
    };
    answers.iter().enumerate().filter_map(of).collect()
}

/// The group that most tell; of two such that which has a primary, or else the first.
fn group_of_most(answers: &[Option<Status>]) -> Option<u64> {
    let weight = |group: u64| {
        let members = || answers.iter().flatten().filter(|a| a.group == Some(group));
        (members().count(), members().any(|a| a.role == "primary"))
    };
    let groups = answers.iter().flatten().filter_map(|answer| answer.group);
    // Of several that weigh the most, `max_by_key` gives the last.
    groups.rev().max_by_key(|&group| weight(group))
}

/// What stands in the way of restarting any replica, the gravest first; nothing: one may be.
pub(super) fn objections(answers: &[Option<Status>]) -> Vec<String> {
    let of_each = |of: fn(usize, &Option<Status>) -> Vec<String>| {
        let each = answers.iter().enumerate();
        each.flat_map(|(place, answer)| of(place, answer)).collect()
    };
    let is_whole = normal_in_one_view(answers) == answers.len();
    let apart = (!is_whole).then(|| "the replicas are not in one view with its primary".into());
    let all: [Vec<String>; 4] = [
        misfits(answers),
        of_each(absence),
        of_each(complaints),
        apart.into_iter().collect(),
    ];
    let gravest = all.into_iter().find(|found| !found.is_empty());
    gravest.unwrap_or_default()
}

/// That it is no normal member.
fn absence(place: usize, answer: &Option<Status>) -> Vec<String> {
    match answer {
        None => vec![format!("replica {place} does not answer")],
        Some(answer) if answer.status != "normal" => {
            let role = &answer.role;
            vec![format!("replica {place} is no normal member: {role}")]
        }
        Some(_) => Vec::new(),
    }
}

/// What it says of others.
fn complaints(place: usize, answer: &Option<Status>) -> Vec<String> {
    let said = answer.iter().flat_map(|answer| &answer.strangers);
    said.map(|what| format!("replica {place} says: {what}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u8, status: &str, view: u64, group: Option<u64>) -> Option<Status> {
        let is_primary = status == "normal" && view % 3 == u64::from(id);
        let role = if is_primary { "primary" } else { "backup" };
        Some(Status {
            id,
            status: status.into(),
            role: role.into(),
            view,
            group,
            ..Status::default()
        })
    }

    fn normal(id: u8, view: u64, group: u64) -> Option<Status> {
        answer(id, "normal", view, Some(group))
    }

    const ELSEWHERE: &str = "belongs to another group: mend its configuration before any replica \
                             is restarted";

    #[test]
    fn a_quorum_is_normal_in_one_view_and_has_its_primary() {
        let recovering = || answer(2, "recovering", 1, Some(7));
        let (primary, backup) = (
            |view| normal((view % 3) as u8, view, 7),
            |v| normal(9, v, 7),
        );
        let count = normal_in_one_view;
        assert_eq!(count(&[backup(1), primary(1), recovering()]), 2);
        assert_eq!(count(&[backup(2), primary(1), None]), 1);
        assert_eq!(count(&[backup(2), primary(1), primary(2)]), 2);
        assert_eq!(count(&[backup(1), None, backup(1)]), 0, "it is lost");
        assert_eq!(count(&[backup(2), primary(1), backup(2)]), 1);
        assert_eq!(count(&[None, None, None]), 0);
    }

    #[test]
    fn who_is_of_another_group_is_no_part_of_a_quorum() {
        let apart = [normal(0, 0, 7), None, normal(2, 0, 8)];
        assert_eq!(normal_in_one_view(&apart), 1);
        assert_eq!(misfits(&apart), [format!("replica 2 {ELSEWHERE}")]);
        let together = [normal(0, 0, 7), None, normal(2, 0, 7)];
        assert_eq!(normal_in_one_view(&together), 2);
        assert!(misfits(&together).is_empty());
    }

    #[test]
    fn one_of_another_group_is_an_objection_however_normal_it_is() {
        let strange = [normal(0, 0, 8), normal(1, 1, 7), normal(2, 1, 7)];
        assert_eq!(objections(&strange), [format!("replica 0 {ELSEWHERE}")]);
        let whole = [normal(0, 1, 7), normal(1, 1, 7), normal(2, 1, 7)];
        assert!(objections(&whole).is_empty());
        let older = [
            normal(0, 1, 7),
            answer(1, "normal", 1, None),
            normal(2, 1, 7),
        ];
        assert!(objections(&older).is_empty(), "it does not tell its group");
    }

    #[test]
    fn what_a_replica_says_of_another_is_an_objection() {
        let mut says = normal(1, 1, 7).expect("an answer");
        says.strangers = vec!["replica 2 is strange".into()];
        let answers = [normal(0, 1, 7), Some(says), normal(2, 1, 7)];
        let said = "replica 1 says: replica 2 is strange";
        assert_eq!(objections(&answers), [said]);
        assert!(misfits(&answers).is_empty() && normal_in_one_view(&answers) == 3);
    }

    #[test]
    fn who_is_missing_or_elsewhere_is_an_objection() {
        let recovering = answer(2, "recovering", 1, None);
        let answers = [None, normal(1, 1, 7), recovering];
        let expected = [
            "replica 0 does not answer",
            "replica 2 is no normal member: backup",
        ];
        assert_eq!(objections(&answers), expected);
        let apart = [normal(0, 1, 7), normal(1, 2, 7), normal(2, 2, 7)];
        let expected = ["the replicas are not in one view with its primary"];
        assert_eq!(objections(&apart), expected);
        let mut swapped = [normal(1, 1, 7), normal(0, 1, 7), normal(2, 1, 7)];
        assert_eq!(objections(&swapped).len(), 2);
        swapped.swap(0, 1);
        assert!(objections(&swapped).is_empty());
    }
}
