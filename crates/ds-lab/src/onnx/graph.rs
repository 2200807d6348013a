//! A graph of ONNX, node by node.

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto,
};
use candle_core::{DType, Result, Tensor};

/// The name of a tensor that flows through the graph, or of a constant.
pub(super) type Name = String;

/// A graph that grows node by node.
#[derive(Default)]
pub(super) struct Builder {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// The path of the layer that nodes are added for.
    pub layer: String,
    count: usize,
}

/// An attribute of a node.
pub(super) enum Attribute<'a> {
    Int(&'a str, i64),
    Float(&'a str, f32),
    Ints(&'a str, Vec<i64>),
}

impl Builder {
    fn unique(&mut self, what: &str) -> Name {
        self.count += 1;
        format!("{}/{what}_{}", self.layer, self.count)
    }

    /// Adds a node with one output, and returns the output's name.
    pub fn node(&mut self, op: &str, inputs: &[&Name], attributes: Vec<Attribute<'_>>) -> Name {
        let name = self.unique(op);
        let attribute = attributes.into_iter().map(|attribute| match attribute {
            Attribute::Int(name, i) => {
                AttributeProto { name: name.into(), i: Some(i), r#type: AttributeProto::INT, ..Default::default() }
            }
            Attribute::Float(name, f) => {
                AttributeProto { name: name.into(), f: Some(f), r#type: AttributeProto::FLOAT, ..Default::default() }
            }
            Attribute::Ints(name, ints) => {
                AttributeProto { name: name.into(), ints, r#type: AttributeProto::INTS, ..Default::default() }
            }
        });
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).clone()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_owned(),
            attribute: attribute.collect(),
        });
        name
    }

    /// A constant of 32-bit floating-point numbers.
    pub fn constant(&mut self, what: &str, values: &[f64], dims: &[usize]) -> Name {
        let raw = values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
        self.add(what, raw, TensorProto::FLOAT, dims)
    }

    /// A constant of 32-bit integers.
    pub fn integers(&mut self, what: &str, values: &[i32], dims: &[usize]) -> Name {
        self.add(what, values.iter().flat_map(|v| v.to_le_bytes()).collect(), TensorProto::INT32, dims)
    }

    /// A constant of 64-bit integers, for shapes and indices.
    pub fn indices(&mut self, what: &str, values: &[i64]) -> Name {
        self.add(what, values.iter().flat_map(|v| v.to_le_bytes()).collect(), TensorProto::INT64, &[values.len()])
    }

    /// A tensor as a constant.
    pub fn tensor(&mut self, what: &str, tensor: &Tensor) -> Result<Name> {
        let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(self.constant(what, &values, tensor.dims()))
    }

    fn add(&mut self, what: &str, raw_data: Vec<u8>, data_type: i32, dims: &[usize]) -> Name {
        let name = self.unique(what);
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        self.constants.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
        name
    }

    /// The graph from `input` (N, …) to `output` (N, outputs).
    pub fn finish(mut self, dims: &[usize], output: &Name, outputs: usize) -> GraphProto {
        for node in &mut self.nodes {
            for name in node.output.iter_mut().chain(&mut node.input).filter(|name| *name == output) {
                *name = OUTPUT.to_owned();
            }
        }
        GraphProto {
            node: self.nodes,
            name: "network".to_owned(),
            initializer: self.constants,
            input: vec![value(INPUT, dims)],
            output: vec![value(OUTPUT, &[outputs])],
        }
    }
}

/// The name of the graph's input.
pub(super) const INPUT: &str = "input";
/// The name of the graph's output.
const OUTPUT: &str = "output";

/// A tensor of any batch size.
fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    let batch = DimensionProto { dim_value: None, dim_param: Some("N".to_owned()) };
    let dims = dims.iter().map(|&dim| DimensionProto { dim_value: Some(dim as i64), dim_param: None });
    let shape = TensorShapeProto { dim: [batch].into_iter().chain(dims).collect() };
    let tensor_type = TensorTypeProto { elem_type: TensorProto::FLOAT, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
