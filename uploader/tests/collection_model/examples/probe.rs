use collection_model::*;
use stateright::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let chain: &[&[u8]] = &[&[], &[0], &[1]];
    let two: &[&[u8]] = &[&[], &[0]];
    let mut s = match args[1].as_str() {
        "1w1c2p" => Setting::new(two, &[Plan::push(1)], 1),
        "1w2c2p" => Setting::new(two, &[Plan::push(1)], 2),
        "2w1c2p" => Setting::new(two, &[Plan::push(1), Plan::push(1)], 1),
        "2w1c3p" => Setting::new(chain, &[Plan::push(2), Plan::push(2)], 1),
        "2w1c3p-21" => Setting::new(chain, &[Plan::push(2), Plan::push(1)], 1),
        "sign" => Setting::new(two, &[Plan::push(1), Plan::sign(0)], 1),
        "undo" => Setting::new(two, &[Plan::push(1), Plan::undo(0)], 1),
        "fork" => Setting::new(&[&[], &[0], &[0]], &[Plan::push(2), Plan::push(1)], 1),
        _ => panic!(),
    };
    for a in &args[2..] {
        match a.as_str() {
            "nostray" => s.strays = false,
            "noabort" => s.aborts = false,
            "noexp" => s.expiry = false,
            "noforget" => s.forgetting = false,
            "cond" => s.conditional = true,
            "nar0" => s.nars = world::Bits(1),
            "nar1" => s.nars = world::Bits(2),
            "nars" => s.nars = world::Bits((1 << s.paths) - 1),
            "parts" => s.parts = true,
            "remove" => s.removed = Some(0),
            "slots2" => s.slots = 2,
            _ => panic!(),
        }
    }
    let t = std::time::Instant::now();
    let c = s
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(std::time::Duration::from_secs(300))
        .spawn_bfs()
        .join();
    println!(
        "{} unique, {} total, depth {}, done {}, {:?}",
        c.unique_state_count(),
        c.state_count(),
        c.max_depth(),
        c.is_done(),
        t.elapsed()
    );
    for (name, path) in c.discoveries() {
        println!("== {name}");
        let v = path.into_vec();
        for (_, a) in &v {
            if let Some(a) = a {
                println!("  {a:?}");
            }
        }
        println!("{:#?}", v.last().unwrap().0.bucket);
    }
}
