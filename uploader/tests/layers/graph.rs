//! Which file imports which, and what that means for folders.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Module, Named, Source};

/// For each file, the files that it imports.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The imports between the files of a crate. An item that a `mod.rs` re-exports counts as imported from its own file.
pub(crate) fn imports(modules: &BTreeMap<Module, Source>) -> Graph {
    let mut graph = Graph::new();
    for source in modules.values() {
        let targets = source.named.iter().filter_map(|named| match named {
            Named::Inside(path) => target(modules, path, 0),
            Named::Outside(_) => None,
        });
        let targets = targets.filter(|file| *file != source.file && !is_index(&source.file));
        graph.insert(source.file.clone(), targets.collect());
    }
    graph
}

/// Whether a file only declares modules and re-exports their items.
pub(crate) fn is_index(file: &str) -> bool {
    file.ends_with("mod.rs") || file == "lib.rs"
}

/// The file that defines the item at a path.
fn target(modules: &BTreeMap<Module, Source>, path: &[String], depth: usize) -> Option<String> {
    let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let source = &modules[&path[..length]];
    let exported = path.get(length).and_then(|name| source.exports.get(name));
    if let Some(exported) = exported.filter(|_| depth < 8) {
        let mut full = match exported.first().map(String::as_str) {
            Some("crate") => exported[1..].to_vec(),
            Some("super") => [&path[..length.saturating_sub(1)], &exported[1..]].concat(),
            Some("self") => [&path[..length], &exported[1..]].concat(),
            _ => [&path[..length], exported.as_slice()].concat(),
        };
        full.extend(path[length + 1..].iter().cloned());
        // An item of another crate has no file here.
        return target(modules, &full, depth + 1).filter(|file| *file != source.file);
    }
    (!is_index(&source.file)).then(|| source.file.clone())
}

/// The graph of the folders and files directly below `folder` (with a `/` at its end; the root is empty): an import
/// between two files is an import between the entries that hold them.
pub(crate) fn collapse(graph: &Graph, folder: &str) -> Graph {
    let entry = |file: &str| -> Option<String> {
        let rest = file.strip_prefix(folder)?;
        Some(rest.split_once('/').map_or(rest, |(name, _)| name).to_owned())
    };
    let mut collapsed = Graph::new();
    for (file, targets) in graph.iter().filter(|(file, _)| !is_index(file)) {
        let Some(from) = entry(file) else { continue };
        let to = targets.iter().filter_map(|target| entry(target)).filter(|to| *to != from);
        collapsed.entry(from.clone()).or_default().extend(to);
    }
    collapsed
}

/// A circle in a graph, as a list of names in the order of the imports.
pub(crate) fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn walk(graph: &Graph, node: &str, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(start) = way.iter().position(|name| name == node) {
            way.drain(..start);
            way.push(node.to_owned());
            return true;
        }
        if done.contains(node) {
            return false;
        }
        way.push(node.to_owned());
        for next in graph.get(node).into_iter().flatten() {
            if walk(graph, next, way, done) {
                return true;
            }
        }
        way.pop();
        done.insert(node.to_owned());
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|node| walk(graph, node, &mut way, &mut done)).then_some(way)
}

/// The graph without the edges that follow from others, so that a picture of it can be read.
pub(crate) fn reduce(graph: &Graph) -> Graph {
    let reaches = |from: &str, to: &str| {
        let (mut next, mut seen) = (vec![from.to_owned()], BTreeSet::new());
        while let Some(node) = next.pop() {
            if node == to {
                return true;
            }
            if seen.insert(node.clone()) {
                next.extend(graph.get(&node).into_iter().flatten().cloned());
            }
        }
        false
    };
    let reduced = graph.iter().map(|(node, targets)| {
        let needed = targets
            .iter()
            .filter(|target| !targets.iter().any(|other| other != *target && reaches(other, target)));
        (node.clone(), needed.cloned().collect())
    });
    reduced.collect()
}
