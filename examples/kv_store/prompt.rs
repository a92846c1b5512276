//! The prompt: one line in, an answer out.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::Result;
use crate::map::{Command, Map};

/// What stands behind the prompt: three nodes in this process, or one of a group of processes.
pub(crate) trait Host {
    /// Writes, and says at which index.
    fn write(&mut self, command: &Command) -> Result<u64>;

    /// The map, not stale.
    fn read(&mut self) -> Result<Map>;

    /// A line for each node.
    fn status(&mut self) -> Vec<String>;

    /// Stops one node.
    fn kill(&mut self, _id: u64) -> Result<()> {
        Err("this process is the node: end it, with ctrl-c or kill -9".into())
    }

    /// Starts it again, on what it has on disk.
    fn restart(&mut self, _id: u64) -> Result<()> {
        Err("this process is the node: start it again from a shell".into())
    }

    /// The end.
    fn stop(&mut self) -> Result<()>;
}

const HELP: &str = "\
put KEY VALUE   write            get KEY   read              status      how every node is
del KEY         delete           list      read everything   quit        or end of input
kill N          stop node N      restart N start it again    (with --interactive)";

/// Answers line by line until `quit` or the end of the input.
pub(crate) fn run(host: &mut impl Host) -> Result<()> {
    let prompting = io::stdin().is_terminal();
    let mut lines = io::stdin().lock().lines();
    loop {
        if prompting {
            print!("> ");
            io::stdout().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        match line.trim() {
            "quit" => break,
            line => answer(host, line).unwrap_or_else(|error| println!("error: {error}")),
        }
    }
    host.stop()
}

fn answer(host: &mut impl Host, line: &str) -> Result<()> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "" => {}
        "put" | "del" => {
            let command = Command::parse(line).ok_or("try `put KEY VALUE` or `del KEY`")?;
            let index = host.write(&command)?;
            println!("ok: {command} is entry {index}");
        }
        "get" => match host.read()?.values.get(rest) {
            Some(value) => println!("{rest} = {value}"),
            None => println!("{rest} is not set"),
        },
        "list" => {
            let map = host.read()?;
            map.values.iter().for_each(|(key, value)| println!("{key} = {value}"));
            println!("{} keys", map.values.len());
        }
        "status" => host.status().iter().for_each(|line| println!("{line}")),
        "kill" => {
            host.kill(number(rest)?)?;
            println!("ok: node {rest} is down");
        }
        "restart" => {
            host.restart(number(rest)?)?;
            println!("ok: node {rest} is up");
        }
        "help" => println!("{HELP}"),
        _ => return Err(format!("what is {verb}? type help").into()),
    }
    Ok(())
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| "which node? give its number".into())
}
