//! This crate: one node, three in this process, three processes.

use std::time::Duration;

use dledger::FlushPolicy;

use crate::measure::cluster::{ASYNC, Cluster, Shape};
use crate::measure::processes::Processes;
use crate::measure::turn::{Turn, append};
use crate::subject::Subject;

impl Subject for Cluster {
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        append(&self.nodes[self.leader()], &vec![0x5a; bytes], window, time)
    }

    fn purge(&mut self) {
        for node in &self.nodes {
            node.purge(node.committed().end).expect("a healthy node purges");
        }
    }
}

impl Subject for Processes {
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        Processes::append(self, bytes, window, time)
    }

    fn purge(&mut self) {
        Processes::purge(self);
    }
}

pub(crate) fn one() -> Option<Box<dyn Subject>> {
    Some(Box::new(Cluster::open(Shape::One, |builder| builder)))
}

pub(crate) fn three() -> Option<Box<dyn Subject>> {
    Some(Box::new(Cluster::open(Shape::Three, |builder| builder)))
}

pub(crate) fn three_unsynced() -> Option<Box<dyn Subject>> {
    Some(Box::new(Cluster::open(Shape::Three, |builder| builder.flush(ASYNC))))
}

pub(crate) fn processes() -> Option<Box<dyn Subject>> {
    Some(Box::new(Processes::start(FlushPolicy::Sync, None)))
}
