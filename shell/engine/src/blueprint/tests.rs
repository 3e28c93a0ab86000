//! What a task becomes as a container, field by field.

use super::*;

#[test]
fn variables_are_merged_by_name() {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let merged = environment(&own(&["A=1", "B=2", "C=3"]), &own(&["B=x=y", "D=4", "C", "E"]));
    assert_eq!(merged, ["A=1", "B=x=y", "D=4"]);
}

#[test]
fn limits_and_swap() {
    let limits = |memory, swap: Option<i64>| {
        resources(&ResourceRequirements {
            limits: Some(skep_model::Limits { memory: skep_model::ByteSize(memory), ..Default::default() }),
            swap: swap.map(skep_model::ByteSize),
            ..ResourceRequirements::default()
        })
    };
    assert_eq!(limits(0, None).unwrap(), Resources::default());
    assert_eq!(limits(10, Some(5)).unwrap().memory_swap, Some(15));
    assert_eq!(limits(10, Some(-1)).unwrap().memory_swap, Some(-1));
    assert!(limits(0, Some(5)).is_err());
    let swappiness = ResourceRequirements { memory_swappiness: Some(101), ..ResourceRequirements::default() };
    assert!(resources(&swappiness).is_err());
}
