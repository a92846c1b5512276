//! Leadership transfers, as requested by hosts.

use super::Engine;
use super::requests::Transfer;
use crate::entry::NodeId;
use crate::error::TransferError;
use crate::replica::TransferRejection;
use crate::reply::Reply;

impl Engine {
    pub(super) fn begin_transfer(&mut self, to: NodeId, reply: Reply<Result<(), TransferError>>) {
        match self.try_transfer(to) {
            Err(error) => reply.send(Err(error)),
            Ok(()) if self.replica.leads_and_commits(to) => reply.send(Ok(())),
            Ok(()) => {
                for before in self.transfers.extract_if(.., |before| before.to != to) {
                    before.reply.send(Err(TransferError::Superseded(to)));
                }
                self.transfers.push(Transfer { to, since: self.now.elapsed, reply });
            }
        }
    }

    /// Begins a transfer, unless `to` leads already.
    fn try_transfer(&mut self, to: NodeId) -> Result<(), TransferError> {
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        if let Some(reason) = &self.fault {
            return Err(TransferError::Failed { reason: reason.clone() });
        }
        let role_state = self.replica.role_state();
        if role_state.leader == Some(to) {
            return Ok(());
        }
        let advertised = role_state.leader.and_then(|leader| self.advertised(leader));
        let refusal = |refusal| match refusal {
            TransferRejection::NotLeader => TransferError::NotLeader {
                leader: role_state.leader,
                advertised: advertised.clone(),
            },
            TransferRejection::NotAVoter => TransferError::NotAVoter(to),
        };
        // Checked first: a rejected transfer must not disturb one in progress.
        self.replica.check_transfer(to).map_err(refusal)?;
        // Queued appends are proposed first, for raft-rs takes none during a transfer. Later
        // appends wait, or are refused.
        self.shared.sequencer.pause();
        self.propose_queued();
        self.replica.handle_transfer(to).map_err(refusal)?;
        self.report_transfer(to);
        Ok(())
    }

    /// Replies to a transfer that has ended: the other node takes appends, or does not lead.
    pub(super) fn end_transfer(&mut self) {
        if self.replica.is_transferring() {
            return;
        }
        // raft-rs gives up after an election timeout, and so does an election. If no node leads by
        // then, a majority is missing.
        let timeout = 2 * self.settings.tick * self.settings.replica.election_ticks as u32;
        let (leader, replica, now) =
            (self.replica.role_state().leader, &self.replica, self.now.elapsed);
        let is_over = |transfer: &mut Transfer| match leader {
            Some(leader) if leader != transfer.to => true,
            _ => replica.leads_and_commits(transfer.to) || now >= transfer.since + timeout,
        };
        for Transfer { to, reply, .. } in self.transfers.extract_if(.., is_over) {
            let is_done = replica.leads_and_commits(to);
            reply.send(if is_done { Ok(()) } else { Err(TransferError::TimedOut(to)) });
            self.shared.sequencer.resume();
        }
    }

    /// Replies to all transfers with `error`.
    pub(super) fn refuse_transfers(&mut self, error: &TransferError) {
        for transfer in self.transfers.drain(..) {
            transfer.reply.send(Err(error.clone()));
        }
    }
}
