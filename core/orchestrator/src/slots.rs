//! The loop's own index: which tasks each slot of each service has, and which slots are occupied.

use std::collections::BTreeMap;

use skep_model::{ServiceId, Slot, TaskId};

/// Names a slot.
pub(crate) type SlotKey = (ServiceId, Slot);

/// One slot.
#[derive(Debug, Default)]
pub(crate) struct SlotEntry {
    /// Its tasks, history included, by id.
    pub(crate) tasks: Vec<TaskId>,
    /// It needs no further task.
    pub(crate) is_occupied: bool,
    /// Changes of its tasks that are on their way; until they are seen the slot is left alone.
    pub(crate) in_flight: u32,
}

/// The slots of one service.
#[derive(Debug, Default)]
pub(crate) struct ServiceSlots {
    /// By slot.
    pub(crate) slots: BTreeMap<Slot, SlotEntry>,
    /// How many are occupied.
    pub(crate) occupied: u64,
    /// How many changes are on their way.
    pub(crate) in_flight: u64,
    /// When it was last looked at, there were tasks to be replaced by an update.
    pub(crate) has_outdated: bool,
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct SlotIndex {
    services: BTreeMap<ServiceId, ServiceSlots>,
}

impl SlotIndex {
    pub(crate) fn service(&self, id: ServiceId) -> Option<&ServiceSlots> {
        self.services.get(&id)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (ServiceId, &ServiceSlots)> {
        self.services.iter().map(|(id, service)| (*id, service))
    }

    pub(crate) fn get(&self, (service, slot): SlotKey) -> Option<&SlotEntry> {
        self.services.get(&service)?.slots.get(&slot)
    }

    pub(crate) fn entry(&mut self, (service, slot): SlotKey) -> &mut SlotEntry {
        self.services.entry(service).or_default().slots.entry(slot).or_default()
    }

    pub(crate) fn add_task(&mut self, key: SlotKey, task: TaskId) {
        let tasks = &mut self.entry(key).tasks;
        if let Err(place) = tasks.binary_search(&task) {
            tasks.insert(place, task);
        }
    }

    pub(crate) fn remove_task(&mut self, key: SlotKey, task: TaskId) {
        self.entry(key).tasks.retain(|known| *known != task);
    }

    pub(crate) fn set_occupied(&mut self, key: SlotKey, is_occupied: bool) {
        let service = self.services.entry(key.0).or_default();
        let entry = service.slots.entry(key.1).or_default();
        if entry.is_occupied != is_occupied {
            entry.is_occupied = is_occupied;
            service.occupied = if is_occupied { service.occupied + 1 } else { service.occupied - 1 };
        }
    }

    pub(crate) fn set_outdated(&mut self, service: ServiceId, has_outdated: bool) {
        if let Some(slots) = self.services.get_mut(&service) {
            slots.has_outdated = has_outdated;
        }
    }

    pub(crate) fn begin_flight(&mut self, key: SlotKey) {
        let service = self.services.entry(key.0).or_default();
        service.slots.entry(key.1).or_default().in_flight += 1;
        service.in_flight += 1;
    }

    pub(crate) fn end_flight(&mut self, key: SlotKey) {
        let service = self.services.entry(key.0).or_default();
        let entry = service.slots.entry(key.1).or_default();
        entry.in_flight = entry.in_flight.saturating_sub(1);
        service.in_flight = service.in_flight.saturating_sub(1);
    }

    /// Forgets a slot that has nothing left and is not to be looked at again, and its service with its last slot.
    pub(crate) fn prune(&mut self, (service, slot): SlotKey, is_awaited: bool) {
        let Some(slots) = self.services.get_mut(&service) else { return };
        let is_empty =
            |entry: &SlotEntry| entry.tasks.is_empty() && entry.in_flight == 0 && !entry.is_occupied && !is_awaited;
        if slots.slots.get(&slot).is_some_and(is_empty) {
            slots.slots.remove(&slot);
        }
        if slots.slots.is_empty() {
            self.services.remove(&service);
        }
    }
}
