//! The stories: what the product does, seen on a real cluster, as a user would see it.
//!
//!     make stories                           # all of them
//!     make stories STORY=two_labelled_pods   # those with this in their names
//!     make measure                           # what it costs, which is no test
//!     STORIES=none make test                 # none, and how many that leaves out
//!
//! Most run side by side. Those that take the operator away run alone, after the others.

mod admission;
mod counts;
mod leftovers;
mod measure;
mod mistakes;
mod rights;
mod survival;
mod tenants;
mod traffic;
mod types;
mod words;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use futures_util::FutureExt;
use libtest_mimic::{Arguments, Failed, Trial};
use macula_e2e::{Story, World};
use tokio::runtime::Runtime;

/// How many run side by side: they wait for the cluster most of the time.
const SIDE_BY_SIDE: usize = 6;

type Told<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

#[derive(Clone, Copy)]
struct Entry {
    name: &'static str,
    tell: for<'a> fn(&'a Story) -> Told<'a>,
    company: Company,
}

/// Whom a story can be told beside.
#[derive(Clone, Copy, PartialEq)]
enum Company {
    Others,
    /// It takes the operator away.
    Nobody,
    /// It measures, and only when it is asked for by `--ignored`.
    Measurement,
}

macro_rules! stories {
    ($($company:ident: [$($module:ident::$name:ident,)+])+) => {
        &[$($(Entry {
            name: concat!(stringify!($module), "::", stringify!($name)),
            tell: |story| Box::pin($module::$name(story)),
            company: Company::$company,
        },)+)+]
    };
}

const STORIES: &[Entry] = stories! {
    Others: [
    counts::a_mesh_and_a_realm_become_ready_and_count_what_their_nodes_say,
    counts::a_node_that_is_cut_off_is_not_counted_though_its_pod_stays_ready,
    survival::traffic_goes_on_without_bootstraps_and_they_come_back_with_the_same_ids,
    survival::no_call_fails_while_bootstraps_come_go_and_die_and_every_record_is_back,
    traffic::two_labelled_pods_in_two_restricted_namespaces_call_and_publish,
    tenants::another_realm_on_the_mesh_hears_nothing_finds_nobody_and_is_refused_by_name,
    tenants::a_pod_that_no_realm_admits_starts_and_says_why_it_has_no_certificate,
    traffic::an_injected_job_completes,
    leftovers::deleting_realm_and_mesh_leaves_nothing_that_we_made,
    words::status_answers_in_every_pod_and_kubectl_get_prints_rows_for_people,
    mistakes::a_bad_object_says_in_its_status_what_is_wrong,
    admission::a_pod_that_names_an_unknown_realm_is_denied_with_our_message,
    rights::the_operator_may_do_what_the_list_says_and_nothing_else,
    types::the_definitions_installed_are_those_of_the_folder_crds,
    types::each_rule_refuses_what_it_should_and_accepts_its_neighbour,
    types::defaults_nulls_and_unknown_fields_are_treated_as_the_types_say,
    types::a_mesh_can_be_scaled_and_its_status_has_room_for_several_writers,
    ]
    Nobody: [
    admission::while_the_webhook_is_down_labelled_pods_are_refused_and_no_others,
    survival::no_call_fails_while_the_operator_is_away_upgraded_or_reinstalled,
    ]
    Measurement: [
    measure::times_latencies_and_memory,
    ]
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if std::env::var("STORIES").is_ok_and(|which| which == "none") {
        let left_out = STORIES.iter().filter(|entry| entry.company != Company::Measurement).count();
        println!("STORIES=none: {left_out} stories were left out");
        return ExitCode::SUCCESS;
    }
    arguments.test_threads.get_or_insert(SIDE_BY_SIDE);
    let runtime = Arc::new(Runtime::new().expect("a runtime starts"));
    let world = match arguments.list {
        true => None,
        false => match runtime.block_on(World::find()) {
            Ok(world) => Some(Arc::new(world)),
            Err(error) => {
                eprintln!("{error:#}");
                return ExitCode::FAILURE;
            }
        },
    };
    let trials = STORIES.iter().enumerate().map(|(index, entry)| {
        let (world, runtime) = (world.clone(), runtime.clone());
        let trial = Trial::test(entry.name, move || match &world {
            Some(world) => runtime.block_on(told(world, index + 1, entry)).map_err(Failed::from),
            None => Ok(()),
        });
        trial.with_ignored_flag(entry.company == Company::Measurement)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(world) = &world
        && let Err(error) = runtime.block_on(world.sweep())
    {
        eprintln!("not everything of the stories was deleted: {error:#}");
    }
    conclusion.exit_code()
}

/// Tells one story, alone or beside others; when it fails, with what a person would look at.
async fn told(world: &Arc<World>, number: usize, entry: &Entry) -> Result<(), String> {
    let (_reader, _writer) = match entry.company {
        Company::Others => (Some(world.installation.read().await), None),
        Company::Nobody | Company::Measurement => (None, Some(world.installation.write().await)),
    };
    world.installed().await.map_err(|error| format!("the chart is not installed: {error:#}"))?;
    let started = Instant::now();
    let story = Story::begin(world, number);
    let outcome = AssertUnwindSafe((entry.tell)(&story)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, as told above")));
    let mut failure = match outcome {
        Ok(()) => None,
        Err(error) => Some(format!("{error:#}\n{}", story.tell().await)),
    };
    if entry.company == Company::Nobody
        && let Err(error) = world.restore().await
    {
        failure.get_or_insert_default().push_str(&format!("\nthe operator is not back: {error:#}"));
    }
    if let Err(error) = story.end().await {
        failure.get_or_insert_default().push_str(&format!("\nit does not end: {error:#}"));
    }
    eprintln!("{:6.1} s  {}", started.elapsed().as_secs_f64(), entry.name);
    failure.map_or(Ok(()), Err)
}
