use Rule::*;
use collection_model::*;
use larder::protocol::rules::{Rule, Rules};
use stateright::*;
fn main() {
    let two: &[&[u8]] = &[&[], &[0]];
    let one: &[&[u8]] = &[&[]];
    let chain: &[&[u8]] = &[&[], &[0], &[1]];
    let nars = |mut s: Setting| {
        s.nars = world::Bits((1 << s.paths) - 1);
        s
    };
    let settings: Vec<(&str, Setting)> = vec![
        ("1w1c1p", Setting::new(one, &[Plan::push(0)], 1)),
        ("1w1c1p nars", nars(Setting::new(one, &[Plan::push(0)], 1))),
        ("sign 1w1c1p nars", nars(Setting::new(one, &[Plan::sign(0)], 1))),
        ("undo 1w1c1p nars", nars(Setting::new(one, &[Plan::undo(0)], 1))),
        ("1w1c2p", Setting::new(two, &[Plan::push(1)], 1)),
        ("1w1c2p parts", {
            let mut s = Setting::new(two, &[Plan::push(1)], 1);
            s.parts = true;
            s
        }),
        ("sign 1w1c2p", Setting::new(two, &[Plan::sign(1)], 1)),
        ("ages", {
            let mut s = Setting::new(two, &[Plan::push(1)], 1);
            s.ages = true;
            s
        }),
        ("1w2c2p", Setting::new(two, &[Plan::push(1)], 2)),
        ("sign 1w2c2p", Setting::new(two, &[Plan::sign(1)], 2)),
        ("1w2c2p nars", nars(Setting::new(two, &[Plan::push(1)], 2))),
        ("2w1c2p", Setting::new(two, &[Plan::push(1), Plan::push(0)], 1)),
        ("chain", Setting::new(chain, &[Plan::push(2)], 1)),
    ];
    let all = [
        LeaseBeforeLook,
        SettleBeforeAcknowledging,
        ConfirmRescue,
        WaitAfterClosing,
        GateReferences,
        AvoidCondemnedNars,
        AskAnew,
        CheckLease,
        SignBeforeCheck,
        SettleBeforeLeaving,
        RecordBeforeReport,
        GateRecords,
        AwaitCondemned,
        AwaitClosing,
        ListAfterPublication,
        TwoSights,
        CountLateRequests,
        CondemnReferrers,
        ReadRecordsAgain,
        ReadRescues,
        ReadNewNarinfos,
        ReadChangedNarinfos,
        KeepClosures,
        DeleteByLevels,
        ConfirmLevels,
        Quarantine,
        ClaimAlone,
        LeaseBeforeClaim,
        AwaitPredecessor,
        ContinueFinal,
    ];
    let only = std::env::args().nth(1);
    for rule in all {
        if only.as_ref().is_some_and(|o| *o != format!("{rule:?}")) {
            continue;
        }
        let mut found = String::new();
        for (name, s) in &settings {
            let mut s = s.clone();
            s.rules = Rules::ALL.without(rule);
            let c = s
                .checker()
                .threads(2)
                .finish_when(HasDiscoveries::AnyFailures)
                .timeout(std::time::Duration::from_secs(40))
                .spawn_bfs()
                .join();
            let d = c.discoveries();
            if let Some((p, path)) = d.into_iter().next() {
                let v = path.into_vec();
                found = format!("{name}: {p} after {} steps", v.len() - 1);
                if only.is_some() {
                    for (_, a) in &v {
                        if let Some(a) = a {
                            println!("  {a:?}");
                        }
                    }
                    println!("{:?}", v.last().unwrap().0.bucket);
                }
                break;
            }
        }
        println!("{rule:?}: {}", if found.is_empty() { "NOT FOUND" } else { &found });
    }
}
