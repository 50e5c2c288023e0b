//! The decisions of a push, without I/O: the request, the verdicts of the rules, and the plan.

mod graph;
mod plan;
mod request;
mod rules;
mod verdicts;

pub use plan::{AboveWork, Action, Plan, Todo, plan};
pub use request::{Request, Root};
pub use rules::{Origin, Rules, Verdict, patterns};
pub use verdicts::{Verdicts, judge};
