//! Composes a push: ask the store, ask the bucket, decide, send, publish.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nix_derivation::StorePath;

use super::claims::Claims;
use super::decide::{Action, Plan, Request, Rules, Todo, Verdicts, judge, plan};
use super::execution::{Execution, Tools};
use super::logs::{Derivers, FailedBuild, LogOptions, Logs, Place};
use super::notes::Notes;
use super::outcome::{Outcome, OutcomeKind, Report};
use super::pins::{PinRules, Pins};
use super::progress::Progress;
use super::publish::Publisher;
use super::realisations::{Realisations, Wanted};
use super::send::compress::Settings;
use super::send::{NarSender, RequestLimit};
use super::store_access::StoreAccess;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::bucket::Bucket;
use crate::format::path_info::PathInfo;
use crate::format::pin::{Pin, PinName};
use crate::format::signature::SecretKey;
use crate::format::standing::Judge;
use crate::session::{Proof, Session};
use crate::store::{Closure, Daemon, StoreLocation};
use crate::survey::{BucketScan, Examiner, NarScan, Presence, Survey, Surveyed, Verifier};

/// The number of attempts of a push, while collections end beside it.
const ATTEMPTS: usize = 3;

/// The options of a pusher.
#[derive(Clone, Debug)]
pub struct Options {
    /// The compression of NARs.
    pub compression: Settings,
    /// The number of large NARs that are compressed at the same time.
    pub jobs: usize,
    /// Whether listings are written.
    pub listings: bool,
    /// Which build logs are published.
    pub logs: LogOptions,
    /// The rules for which paths are pushed and signed.
    pub rules: Rules,
    /// The names of the keys whose narinfos are replaced where no client can use them.
    pub adopt: Vec<String>,
    /// Whether NARs that others have put into the bucket are shared without a look at their contents.
    pub trust_bucket: bool,
    /// Which pushed roots are pinned, if the request wants that.
    pub pins: PinRules,
}

/// Pushes paths into a bucket. A pusher serves any number of pushes, also at the same time.
#[derive(Debug)]
pub struct Pusher {
    session: Session,
    store: StoreAccess,
    keys: Vec<SecretKey>,
    rules: Arc<Rules>,
    sender: NarSender,
    /// The limit on concurrent small requests of all pushes. A small NAR takes a slot before it is read.
    requests: RequestLimit,
    claims: Claims,
    notes: Notes,
    pins: Pins,
    realisations: Realisations,
    listings: bool,
    logs: Logs,
    adopt: Vec<String>,
    verifier: Arc<Verifier>,
}

impl Pusher {
    /// Opens a session with the bucket.
    ///
    /// # Errors
    /// When the bucket is not prepared, is for another store directory, or cannot be written to.
    pub async fn open(
        bucket: Arc<dyn Bucket>,
        store: Arc<StoreLocation>,
        keys: Vec<SecretKey>,
        options: Options,
    ) -> Result<Self> {
        let Options { compression, jobs, listings, logs, mut rules, adopt, trust_bucket, pins } = options;
        rules.trusted_keys.extend(keys.iter().map(SecretKey::public));
        let session = Session::open(bucket, store.store_dir.as_str(), &keys, &rules.trusted_keys).await?;
        let verifier = Arc::new(Verifier::new(trust_bucket));
        let sender = NarSender::new(&session, store.clone(), compression, jobs, listings, verifier.clone());
        Ok(Self {
            session,
            store: StoreAccess::new(store),
            keys,
            rules: Arc::new(rules),
            sender,
            requests: RequestLimit::default(),
            claims: Claims::default(),
            notes: Notes::default(),
            pins: Pins::new(pins),
            realisations: Realisations::default(),
            listings,
            logs: Logs::new(logs),
            adopt,
            verifier,
        })
    }

    /// Takes over a connection to the daemon, which answers questions about closures. The daemon keeps the temporary
    /// roots of the connection until the session ends.
    pub fn lend(&self, daemon: Daemon) {
        self.store.lend(daemon);
    }

    /// The id of this writer.
    pub fn id(&self) -> &str {
        self.session.id()
    }

    /// The session with the bucket.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Sends NARs.
    pub fn sender(&self) -> &NarSender {
        &self.sender
    }

    /// The rules, with the keys that sign among the trusted keys.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Publishes narinfos.
    pub fn publisher(&self) -> Publisher<'_> {
        Publisher { session: &self.session, examiner: self.examiner() }
    }

    /// The address of the bucket.
    pub fn address(&self) -> String {
        self.session.bucket().address()
    }

    /// Checks that the session goes on. After the session, a pusher cannot push.
    ///
    /// # Errors
    /// When the session is over.
    pub fn check(&self) -> Result<()> {
        self.session.check()
    }

    /// Checks that the bucket accepts a write.
    ///
    /// # Errors
    /// When the session is over, or the bucket refuses the write.
    pub async fn probe(&self) -> Result<()> {
        self.session.probe().await
    }

    /// Writes a generation of a pin. Returns its id. `since` is the moment since when the caller knows that the paths are there.
    ///
    /// # Errors
    /// When the session is over, or the bucket refuses the write.
    pub async fn pin(&self, name: &PinName, pin: &Pin, since: Moment) -> Result<String> {
        self.session.pin(name, pin, since).await
    }

    /// Begins to remove what dead writers have left in the bucket. `former` is the id of a session that is known to be
    /// dead.
    pub fn begin_sweep(&self, former: Option<String>) {
        self.session.begin_sweep(former);
    }

    /// Ends the session, and closes the lent connection to the daemon.
    pub async fn close(self) {
        futures::future::join(self.store.close(), self.session.close()).await;
    }

    /// Pushes the roots of the request and, unless the request says otherwise, their closures.
    ///
    /// # Errors
    /// When the push cannot begin, or cannot find out what to do. An error that concerns one path is its outcome in the
    /// report.
    pub async fn push(&self, mut request: Request, progress: Arc<dyn Progress>) -> Result<Report> {
        request.removed = self.session.removed();
        let request = Arc::new(request);
        for _ in 0..ATTEMPTS {
            let (mut report, since) = self.try_push(&request, &progress).await?;
            report.since = Some(since);
            // What a collection could take that has ended meanwhile may be gone: the bucket is asked again.
            // Such a path may also have failed, because it could not be recorded as needed.
            let is_there =
                |outcome: &Outcome| outcome.is_available() || matches!(outcome, Outcome::Failed(_));
            let mut there = report.outcomes.iter().filter(|(_, outcome)| is_there(outcome));
            if request.dry_run || !there.any(|(path, _)| self.session.forgot(path.digest(), since)) {
                return Ok(self.pin_roots(&request, report, since, &*progress).await);
            }
            progress.remark("a collection has ended meanwhile; looking again at what it could take");
        }
        Err(Error::transient(Area::Bucket, format!("cannot push to `{}`", self.address()))
            .because("collections ended during each attempt")
            .hint("try again"))
    }

    /// Pushes, by what the bucket shows now. Also returns the moment of the first question.
    async fn try_push(
        &self,
        request: &Arc<Request>,
        progress: &Arc<dyn Progress>,
    ) -> Result<(Report, Moment)> {
        let mut since = Moment::now();
        // With many roots, it is certain that the bucket will be listed: the scan begins before the closure is known.
        let facts = self.session.facts();
        let is_known = |path: &StorePath| facts.is_known(path) && !request.doubted.contains(path);
        let unknown = request.roots.iter().filter(|root| !is_known(&root.path)).count();
        let mut scan = BucketScan::begin(self.session.bucket(), unknown);
        let (closure, verdicts) = self.judge(request).await?;
        let by_closure = verdicts.by_closure(&closure);
        let asked: Vec<_> = verdicts.asked(&closure).cloned().collect();
        let digests = asked.iter().map(|info| info.path.digest());
        if !request.dry_run {
            let waits = self.session.must_wait(digests.clone());
            if waits {
                progress.remark("waiting for a collection, which is removing paths of this push");
            }
            self.session.clear(digests).await?;
            if waits {
                // What was listed before says nothing any more.
                since = Moment::now();
                scan = BucketScan::begin(self.session.bucket(), unknown);
            }
        }
        let (presence, nars) = self.survey(asked, scan, request).await?;
        let realised = Wanted::of(request, &closure);
        let derivers = self.logs.derivers(request, &closure);
        let mut plan = plan(request, closure, verdicts, presence);
        if !request.dry_run {
            // The events say "present", so the record comes before them.
            self.record(request, &mut plan.settled, since).await;
        }
        progress.planned(&plan);
        self.notes.make(&plan, &by_closure, &**progress);
        if request.dry_run {
            return Ok((planned(plan), since));
        }
        let mut report = self.execute(plan, &nars, &derivers, progress).await?;
        self.realise((realised, since), &mut report, &**progress).await;
        self.logs.finish(self.logs_go(&**progress), request, &derivers, (&report, since)).await;
        for path in self.record(request, &mut report, since).await {
            progress.finished(&path, &report.outcomes[&path]);
        }
        Ok((report, since))
    }

    /// Publishes the logs of builds that failed, as far as the options and the rules allow it.
    ///
    /// # Errors
    /// When the bucket fails. The attempt may be made again.
    pub async fn publish_failed_logs(&self, failed: Vec<FailedBuild>, progress: &dyn Progress) -> Result<()> {
        self.logs.publish_failed(self.logs_go(progress), failed, &self.rules).await
    }

    /// The most text of a build log of a pushed path, in bytes; `None` if such logs are not published.
    pub fn most_log(&self) -> Option<u64> {
        self.logs.most()
    }

    /// Writes the build log of a derivation that came from another cache, unless one stands in the bucket. `output` is in the
    /// bucket since the moment `since`. Returns whether the log was written.
    ///
    /// # Errors
    /// When the session is over, a collection is removing the output or the log, or the bucket fails.
    pub async fn write_log(
        &self,
        derivation: &StorePath,
        output: &StorePath,
        text: Vec<u8>,
        since: Moment,
    ) -> Result<bool> {
        self.logs.write(&self.session, (derivation, output), text, since).await
    }

    fn logs_go<'a>(&'a self, progress: &'a dyn Progress) -> Place<'a> {
        let (store, requests) = (&self.store.location, &self.requests);
        Place { session: &self.session, store, requests, progress }
    }

    /// Records that the roots in the report are needed. A root that the bucket has, but that cannot be recorded, has failed:
    /// a collection may take it. Returns the failed ones.
    async fn record(&self, request: &Request, report: &mut Report, since: Moment) -> Vec<Arc<StorePath>> {
        let roots = request.roots.iter().map(|root| &root.path);
        let outcomes = roots.filter_map(|path| Some((path, report.outcomes.get(path)?.kind())));
        let of_kinds = |kinds: [OutcomeKind; 2]| -> Vec<Arc<StorePath>> {
            let outcomes = outcomes.clone().filter(|(_, kind)| kinds.contains(kind));
            outcomes.map(|(path, _)| path.clone()).collect()
        };
        let found = of_kinds([OutcomeKind::Present, OutcomeKind::Differs]);
        let written = of_kinds([OutcomeKind::Pushed, OutcomeKind::Signed]);
        let Err(error) = self.session.record_needs(&found, &written, since).await else { return Vec::new() };
        report.outcomes.extend(found.iter().map(|path| (path.clone(), Outcome::Failed(error.clone()))));
        found
    }

    /// Publishes the realisations of the paths in the report that the bucket has. A path whose realisation could not be published
    /// has failed.
    async fn realise(&self, wanted: (Wanted, Moment), report: &mut Report, progress: &dyn Progress) {
        let (publisher, store) = (self.publisher(), &self.store.location);
        let failed = self.realisations.publish(publisher, store, wanted, report, progress).await;
        for (path, error) in failed {
            let outcome = Outcome::Failed(error);
            progress.finished(&path, &outcome);
            report.outcomes.insert(path, outcome);
        }
    }

    /// Adds the roots that the bucket has to the pins of the configuration. Those that cannot be pinned have failed.
    async fn pin_roots(
        &self,
        request: &Request,
        mut report: Report,
        since: Moment,
        progress: &dyn Progress,
    ) -> Report {
        if request.dry_run || !request.pins {
            return report;
        }
        let is_there = |path: &&Arc<StorePath>| {
            report.outcomes.get(*path).is_some_and(|outcome| outcome.kind().is_in_bucket())
        };
        let there: Vec<_> = request.roots.iter().map(|root| &root.path).filter(is_there).cloned().collect();
        let wanted = self.pins.wanted(there);
        match self.pins.pin(&self.session, &wanted, since).await {
            Ok(pinned) => pinned.iter().for_each(|text| progress.remark(text)),
            Err(error) => {
                for path in wanted {
                    let outcome = Outcome::Failed(error.clone());
                    progress.finished(&path, &outcome);
                    report.outcomes.insert(path, outcome);
                }
            }
        }
        report
    }

    /// Reads the closure of the roots, and judges its paths.
    async fn judge(&self, request: &Arc<Request>) -> Result<(Closure, Verdicts)> {
        let roots = request.roots.iter().map(|root| root.path.clone()).collect();
        let (request, rules) = (request.clone(), self.rules.clone());
        let judge = move |store: &StoreLocation, closure: &Closure| {
            judge(&store.store_dir, &request, closure, &rules)
        };
        self.store.closure_with(roots, judge).await
    }

    /// The presence of each path: from the session's facts, or by asking the bucket. The result also holds the NARs that
    /// the bucket has listed.
    async fn survey(
        &self,
        wanted: Vec<Arc<PathInfo>>,
        scan: BucketScan,
        request: &Request,
    ) -> Result<(HashMap<Arc<StorePath>, Presence>, NarScan)> {
        let facts = self.session.facts();
        let doubted = &request.doubted;
        let (known, asked): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|info| facts.is_known(&info.path) && !doubted.contains(&*info.path));
        let survey = Survey { examiner: self.examiner(), read_all: request.read_all, doubted };
        let Surveyed { mut presence, at, nars } = survey.of(&asked, scan).await?;
        let is_unavailable = |presence: &Presence| !presence.is_available() && !presence.is_unknown();
        facts.lose(presence.iter().filter(|(_, presence)| is_unavailable(presence)).map(|(path, _)| path));
        let available = presence.iter().filter(|(_, presence)| presence.is_available());
        let proofs = available.map(|(path, presence)| {
            let proof = match presence {
                Presence::Complete => Proof::Complete,
                _ => Proof::Foreign,
            };
            (path.clone(), proof)
        });
        facts.record_all(proofs, at);
        presence.extend(known.into_iter().map(|info| (info.path.clone(), Presence::Complete)));
        Ok((presence, nars))
    }

    fn examiner(&self) -> Examiner<'_> {
        Examiner {
            bucket: &**self.session.bucket(),
            judge: Judge {
                store_dir: &self.store.location.store_dir,
                keys: &self.keys,
                trusted: &self.rules.trusted_keys,
            },
            adopt: &self.adopt,
            verifier: &self.verifier,
        }
    }

    /// Executes the plan. The report holds the outcome of each path.
    async fn execute(
        &self,
        plan: Plan,
        nars: &NarScan,
        derivers: &Derivers,
        progress: &Arc<dyn Progress>,
    ) -> Result<Report> {
        let Plan { todo, references, settled: mut report, above_work } = plan;
        self.sender.forget_outdated();
        let tools = Tools {
            store: &self.store,
            sender: &self.sender,
            publisher: self.publisher(),
            requests: &self.requests,
            claims: &self.claims,
            progress,
            nars,
            listings: self.listings,
            logs: &self.logs,
            derivers,
        };
        let settled = Execution::new(tools, &todo, &references).finish().await;
        let failed = failed_work(&todo, &settled);
        for (path, outcome) in above_work.outcomes_after(&failed) {
            progress.finished(&path, &outcome);
            report.outcomes.insert(path, outcome);
        }
        report
            .outcomes
            .extend(settled.into_iter().map(|(node, outcome)| (todo[node].info.path.clone(), outcome)));
        Ok(report)
    }
}

/// For each place of failed work, the path that is to blame.
fn failed_work(todo: &[Todo], settled: &BTreeMap<usize, Outcome>) -> BTreeMap<usize, Arc<StorePath>> {
    let by = |place: usize| match settled.get(&place) {
        Some(Outcome::Blocked { by }) => Some(by.clone()),
        Some(outcome) if outcome.is_available() => None,
        _ => Some(todo[place].info.path.clone()),
    };
    (0..todo.len()).filter_map(|place| Some((place, by(place)?))).collect()
}

/// The report of a dry run.
fn planned(plan: Plan) -> Report {
    let mut report = plan.settled;
    report.outcomes.extend(plan.above_work.outcomes());
    report.outcomes.extend(plan.todo.into_iter().map(|todo| {
        let outcome = match todo.action {
            Action::Sign => Outcome::Signed,
            Action::Upload => Outcome::Planned { nar_size: todo.info.nar_size },
        };
        (todo.info.path.clone(), outcome)
    }));
    report
}
