//! The strategy of each row, built-in or custom, behind one reference.

use std::{ops::Deref, sync::Arc};

use objects::{
    kinds::Kind,
    strategy::{Strategy, for_kind},
};

use crate::crd::strategy::CustomStrategy;

/// A strategy with the lifetime of its row.
#[derive(Clone)]
pub(crate) enum StrategyRef {
    BuiltIn(&'static dyn Strategy),
    Custom(Arc<CustomStrategy>),
}

impl Deref for StrategyRef {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            StrategyRef::BuiltIn(strategy) => *strategy,
            StrategyRef::Custom(strategy) => strategy.as_ref(),
        }
    }
}

/// The strategy of a built-in row: that of the form its objects are stored in.
pub(crate) fn built_in(kind: &Kind) -> Option<StrategyRef> {
    for_kind(kind).map(StrategyRef::BuiltIn)
}
