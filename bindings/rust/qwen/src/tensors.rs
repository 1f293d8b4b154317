use crate::error::{c_string, Error, Result};
use crate::handle::{read, slice, Handle};
use crate::sys;

/// What [`Engine::forward`](crate::Engine::forward), embed and rerank return.
pub struct Tensors(pub(crate) Handle<sys::qwen_tensors>);

/// Row-major float32 values, borrowed from their [`Tensors`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor<'a> {
    shape: [usize; 8],
    dimensions: usize,
    pub values: &'a [f32],
}

impl Tensors {
    /// "logits" `[rows, vocab_size]`, "hidden.0" … `[rows, hidden_size]`, "embeddings" `[inputs, dimensions]`, "scores" `[inputs]`.
    /// `ErrorKind::NotFound` for what was not asked for.
    pub fn get(&self, sequence: usize, name: &str) -> Result<Tensor<'_>> {
        let name = c_string("a tensor's name", name)?;
        // SAFETY: the values live as long as self.
        unsafe {
            let raw: sys::qwen_tensor = read(|tensor, error| sys::qwen_tensors_get(self.0.get(), sequence, name.as_ptr(), tensor, error))?;
            if raw.dtype != sys::QWEN_DTYPE_F32 {
                return Err(Error::new(sys::QWEN_ERR_UNSUPPORTED, "qwen::Tensor reads float32 only"));
            }
            Ok(Tensor {
                shape: raw.shape.map(|size| usize::try_from(size).unwrap_or(0)),
                dimensions: raw.dimensions as usize,
                values: slice(raw.data.cast(), raw.bytes / std::mem::size_of::<f32>()),
            })
        }
    }
}

impl<'a> Tensor<'a> {
    /// Outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.dimensions]
    }

    /// The rows of the innermost dimension.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.values.chunks(self.shape().last().copied().unwrap_or(1).max(1))
    }
}
