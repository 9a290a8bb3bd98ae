//! Power cuts, the real thing: members whose data is on file systems that stop writing between two instructions.
//!
//! Each member has an ext4 image of its own, loop-mounted with `commit=300`, so that the kernel writes nothing back by
//! itself. Under load the file system is shut down without flushing its journal (`EXT4_IOC_SHUTDOWN`): from then on
//! nothing reaches the image, synced or not. The members are killed, the image is checked and mounted again, the members
//! start, and everything is read. A write that was acknowledged must be there, one that nobody attempted must not, and
//! every start must succeed.
//!
//! What this does not show: the write cache of a drive. What the kernel has handed to the loop device stays, flushed or
//! not, so a missing flush of the device itself goes unnoticed; `storage`'s crash images cover that.

mod image;
mod load;
mod server;
mod verdict;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use image::Image;
use load::Load;
use server::Server;
use verdict::Writers;

pub use image::own_mounts;
pub use verdict::Found;

/// Shortest and longest load before a cut.
const LOAD_BEFORE_CUT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1500));
/// Longest part of a start that is left to itself before a second cut.
const START_BEFORE_CUT: Duration = Duration::from_millis(200);
/// One cut in so many is followed by a second one, during the start.
const SECOND_CUT_ONE_IN: u32 = 4;

/// What to cut, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Server binary; it takes etcd's flags.
    pub binary: PathBuf,
    /// Members: 1 or 3.
    pub members: usize,
    /// Decides loads, moments and victims, but not how threads take turns.
    pub seed: u64,
    /// Cuts, not counting second ones.
    pub cycles: u32,
    /// Where images and logs are made. On a real disk.
    pub directory: PathBuf,
}

/// One cut and what was there afterwards.
#[derive(Clone, Debug)]
pub struct Cycle {
    /// From 1.
    pub number: u32,
    /// Members whose power was cut.
    pub cut: Vec<usize>,
    /// Whether it was cut again while they started.
    pub second_cut: bool,
    /// Writes acknowledged in this cycle, and those whose outcome is unknown.
    pub acknowledged: u64,
    /// See `acknowledged`.
    pub unknown: u64,
    /// From the last start until all members served.
    pub recovery: Duration,
    /// What the reads showed, the worst of all members.
    pub found: Found,
}

/// Runs the plan, and hands each cycle to `tell` as it ends, which may have seen enough.
///
/// # Errors
/// The machine lacks an ability (root, loop devices, ext4), or a member did not start after a cut; the text says which
/// cycle and where its log is.
pub async fn run(plan: &Plan, mut tell: impl FnMut(&Cycle) -> ControlFlow<()>) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut rig = Rig::build(plan).await?;
    let mut writers = Writers::new(plan.seed);
    for number in 1..=plan.cycles {
        let cycle = rig
            .cycle(number, &mut random, &mut writers)
            .await
            .with_context(|| format!("cycle {number}, data and logs in {}", plan.directory.display()))?;
        if !cycle.found.is_clean() {
            writers.save(&plan.directory.join(format!("history-{number}.jsonl")))?;
        }
        if tell(&cycle).is_break() {
            break;
        }
    }
    Ok(())
}

/// Images and members. Dropping it ends the processes first and then unmounts.
struct Rig {
    servers: Vec<Server>,
    images: Vec<Image>,
}

impl Rig {
    async fn build(plan: &Plan) -> anyhow::Result<Self> {
        if !matches!(plan.members, 1 | 3) {
            bail!("{} members: 1 or 3", plan.members);
        }
        let at = |index: usize, what: &str| plan.directory.join(format!("m{index}{what}"));
        let images: Vec<Image> = (0..plan.members)
            .map(|index| Image::create(&at(index, ".img"), &at(index, "")))
            .collect::<Result<_, _>>()?;
        let data: Vec<&Path> = images.iter().map(Image::mount_point).collect();
        let servers = server::cluster(&plan.binary, &data, &plan.directory)?;
        let mut rig = Self { servers, images };
        for server in &mut rig.servers {
            server.start()?;
        }
        rig.wait_until_all_serve().await?;
        Ok(rig)
    }

    async fn cycle(
        &mut self,
        number: u32,
        random: &mut StdRng,
        writers: &mut Writers,
    ) -> anyhow::Result<Cycle> {
        let endpoints: Vec<String> = self.servers.iter().map(Server::endpoint).collect();
        let load = Load::start(&endpoints, writers)?;
        tokio::time::sleep(random.random_range(LOAD_BEFORE_CUT.0..LOAD_BEFORE_CUT.1)).await;
        let cut = victims(self.servers.len(), random);
        self.cut(&cut)?;
        let (acknowledged, unknown) = load.stop(writers).await;
        self.power_on(&cut)?;
        let second_cut = random.random_ratio(1, SECOND_CUT_ONE_IN);
        if second_cut {
            tokio::time::sleep(random.random_range(Duration::ZERO..START_BEFORE_CUT)).await;
            self.cut(&cut)?;
            self.power_on(&cut)?;
        }
        let started = Instant::now();
        self.wait_until_all_serve().await?;
        let recovery = started.elapsed();
        let mut found = Found::default();
        for endpoint in &endpoints {
            found = found.worse(writers.judge(endpoint).await?);
        }
        writers.accept(&endpoints[0]).await?;
        Ok(Cycle {
            number,
            cut,
            second_cut,
            acknowledged,
            unknown,
            recovery,
            found,
        })
    }

    /// The members of one rack go dark together: first nobody acts any more, then nothing is written any more. A member that
    /// ran on for a moment would answer for syncs of a file system that is gone, which no member without power does.
    fn cut(&mut self, members: &[usize]) -> anyhow::Result<()> {
        for &member in members {
            self.servers[member].freeze()?;
        }
        for &member in members {
            self.images[member].cut()?;
        }
        for &member in members {
            self.servers[member].kill()?;
        }
        Ok(())
    }

    fn power_on(&mut self, members: &[usize]) -> anyhow::Result<()> {
        for &member in members {
            self.images[member].mount_again()?;
            self.servers[member].start()?;
        }
        Ok(())
    }

    async fn wait_until_all_serve(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.wait_until_it_serves().await?;
        }
        Ok(())
    }
}

/// Whose power is cut: all of them half of the time, else any number of any of them.
fn victims(members: usize, random: &mut StdRng) -> Vec<usize> {
    if members == 1 || random.random_bool(0.5) {
        return (0..members).collect();
    }
    let first = random.random_range(0..members);
    let number = random.random_range(1..members);
    (0..number).map(|step| (first + step) % members).collect()
}
