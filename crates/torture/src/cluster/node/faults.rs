//! What is done to a node's disk and clock; several faults may do so at once.

use super::Node;
use crate::cluster::control::DiskFaults;
use crate::cluster::error::HarnessError;
use crate::cluster::system::Signal;

impl Node {
    /// Makes its disk do something wrong; gives a number to end that by.
    pub(crate) fn begin_disk_faults(&mut self, faults: DiskFaults) -> Result<u64, HarnessError> {
        self.met_disk_faults |= faults.may_end_a_node();
        self.next_fault += 1;
        self.disk_faults.insert(self.next_fault, faults);
        self.set_disk()?;
        Ok(self.next_fault)
    }

    /// Ends what [`Self::begin_disk_faults`] began.
    pub(crate) fn end_disk_faults(&mut self, number: u64) -> Result<(), HarnessError> {
        self.disk_faults.remove(&number);
        self.set_disk()
    }

    pub(super) fn set_disk(&self) -> Result<(), HarnessError> {
        let all = self.disk_faults.values().fold(self.disk_nature.clone(), |all, more| all.and(more));
        self.control.set_disk(&all)
    }

    /// Fills its disk but for so many bytes; gives a number to end that by.
    pub(crate) fn fill_disk(&mut self, left: u64) -> Result<u64, HarnessError> {
        if !self.is_power_off && !self.is_wiped {
            self.disk.fill(left)?;
        }
        // It concerns no folder: the disk itself says no.
        self.begin_disk_faults(DiskFaults { room_bytes: Some(left), ..DiskFaults::default() })
    }

    /// Makes room on its disk again.
    pub(crate) fn free_disk(&mut self, number: u64) -> Result<(), HarnessError> {
        if !self.is_power_off && !self.is_wiped {
            self.disk.free()?;
        }
        self.end_disk_faults(number)
    }

    /// Sets its wall clock ahead or back; gives a number to undo that by.
    pub(crate) fn shift_clock(&mut self, seconds: i64) -> Result<u64, HarnessError> {
        self.next_fault += 1;
        self.clocks.insert(self.next_fault, seconds);
        self.set_clock()?;
        Ok(self.next_fault)
    }

    /// Undoes a shift of the clock.
    pub(crate) fn shift_clock_back(&mut self, number: u64) -> Result<(), HarnessError> {
        self.clocks.remove(&number);
        self.set_clock()
    }

    fn set_clock(&self) -> Result<(), HarnessError> {
        self.control.set_clock(self.clocks.values().sum())
    }

    /// Lets go of everything that holds it: it runs with a good disk and the right time.
    pub(crate) fn heal(&mut self) -> Result<(), HarnessError> {
        self.down = 0;
        self.disk_faults.clear();
        self.clocks.clear();
        self.set_disk()?;
        self.set_clock()?;
        if self.still > 0 {
            self.still = 0;
            self.tell(Signal::Continue)?;
        }
        if self.is_power_off || self.is_wiped { Ok(()) } else { self.disk.free() }
    }
}
