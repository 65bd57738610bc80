//! Label and field selectors of a request, matched against projections.

use objects::{
    selector::{FieldSelector, Selector},
    status::Status,
    strategy::{SelectableField, fields_of},
};

use crate::{
    cache::{Entry, Projector},
    query::Query,
    registry::Resource,
};

/// Which objects a list, watch or collection delete is about.
pub(crate) struct Selection {
    labels: Selector,
    fields: FieldSelector,
    projector: Projector,
    /// From a watch on one object.
    name: Option<String>,
}

/// The fields that a resource offers: its own, where it is another view of what is stored.
fn offered(resource: &Resource) -> &[SelectableField] {
    if resource.kind.custom { resource.strategy.selectable_fields() } else { fields_of(&resource.kind) }
}

impl Selection {
    /// Reads and checks the selectors of a request.
    pub(crate) fn of(query: &Query, resource: &Resource) -> Result<Selection, Status> {
        let labels = Selector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        fields.check(offered(resource)).map_err(|error| Status::bad_request(error.to_string()))?;
        Ok(Selection { labels, fields, projector: resource.projector.clone(), name: None })
    }

    /// Narrows the selection to one name.
    pub(crate) fn only(&mut self, name: &str) {
        self.name = Some(name.to_owned());
    }

    /// Whether everything is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything() && self.name.is_none()
    }

    /// The only name that can match, if there is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref().or_else(|| self.fields.exact("metadata.name"))
    }

    /// Whether an object is selected.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        if self.name.as_deref().is_some_and(|name| name != entry.name()) {
            return false;
        }
        let fields = self.fields.is_everything()
            || self.fields.matches_by(|label| match label {
                "metadata.name" => Some(entry.name()),
                "metadata.namespace" => Some(entry.namespace()),
                other => {
                    let position = self.projector.position(other)?;
                    entry.projection.fields.get(position).map(AsRef::as_ref)
                }
            });
        fields && self.labels.matches(&entry.projection.labels)
    }
}
