//! The order in which the nodes of a tree are drawn: each below its primary parent.

use stentor_lab::demo::NodeState;

/// The nodes in drawing order: the lines before a name, and the node's place in `nodes`.
pub(super) fn order(nodes: &[NodeState]) -> Vec<(String, usize)> {
    let mut order = Vec::new();
    let Some(root) = nodes.iter().position(|node| node.level == 0) else { return order };
    order.push((String::new(), root));
    below(nodes, root, "", &mut order);
    // A node without a place in the tree is drawn at the end.
    for at in 0..nodes.len() {
        if !order.iter().any(|(_, drawn)| *drawn == at) {
            order.push(("?  ".to_owned(), at));
        }
    }
    order
}

fn below(nodes: &[NodeState], parent: usize, indent: &str, order: &mut Vec<(String, usize)>) {
    let children: Vec<usize> =
        (0..nodes.len()).filter(|&at| is_child(&nodes[at], &nodes[parent])).collect();
    for (number, &child) in children.iter().enumerate() {
        let last = number + 1 == children.len();
        let (branch, trunk) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        order.push((format!("{indent}{branch}"), child));
        // Parents stand on lower levels, so that there is no circle.
        below(nodes, child, &format!("{indent}{trunk}"), order);
    }
}

/// Whether `parent` is the node's primary one; the origin is that of level 1.
fn is_child(node: &NodeState, parent: &NodeState) -> bool {
    match node.level {
        0 => false,
        1 => parent.level == 0,
        level => {
            parent.level < level
                && node.parents.first().is_some_and(|(name, _)| *name == parent.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, level: u8, parents: &[&str]) -> NodeState {
        let parents = parents.iter().map(|name| ((*name).to_owned(), true)).collect();
        NodeState { name: name.into(), level, parents, ..NodeState::default() }
    }

    #[test]
    fn each_node_stands_below_its_primary_parent() {
        let nodes = [
            node("o", 0, &[]),
            node("a", 1, &[]),
            node("b", 1, &["o"]),
            node("c", 2, &["b", "a"]),
            node("d", 3, &["c", "b"]),
            node("lost", 2, &[]),
        ];
        let drawn: Vec<String> = order(&nodes)
            .into_iter()
            .map(|(lines, at)| format!("{lines}{}", nodes[at].name))
            .collect();
        assert_eq!(drawn, ["o", "├─ a", "└─ b", "   └─ c", "      └─ d", "?  lost"]);
        assert!(order(&[]).is_empty());
    }
}
