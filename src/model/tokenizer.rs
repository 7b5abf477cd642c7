//! The tokenizer of CLIP: a text to token numbers, from the files of a model folder, by the `tokenizers` crate.

use crate::error::{Error, Result};
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

/// What CLIP takes as one word: contractions, runs of letters, single digits, runs of anything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Token numbers of a text, without begin, end and padding. `folder` holds `tokenizer.json`, or `vocab.json` and `merges.txt`.
pub fn tokenize(folder: &Path, text: &str) -> Result<Vec<u32>> {
    let refuse = |reason: String| Error::Weights { path: folder.into(), reason };
    let whole = folder.join("tokenizer.json");
    let [vocabulary, merges] = ["vocab.json", "merges.txt"].map(|f| folder.join(f));
    let tokenizer = if whole.exists() {
        Tokenizer::from_file(&whole).map_err(|e| refuse(format!("tokenizer.json can't be read: {e}")))?
    } else if vocabulary.exists() && merges.exists() {
        let [vocabulary, merges] = [vocabulary, merges].map(|p| p.to_string_lossy().into_owned());
        clip(&vocabulary, &merges).map_err(|e| refuse(format!("vocab.json and merges.txt can't be read: {e}")))?
    } else {
        return Err(refuse(
            "a prompt needs tokenizer.json, or vocab.json and merges.txt, here; only the empty prompt does without"
                .into(),
        ));
    };
    let encoded = tokenizer.encode(text, false).map_err(|e| refuse(format!("the prompt can't be tokenized: {e}")))?;
    Ok(encoded.get_ids().to_vec())
}

fn clip(vocabulary: &str, merges: &str) -> tokenizers::Result<Tokenizer> {
    let model = BPE::from_file(vocabulary, merges)
        .unk_token("<|endoftext|>".into())
        .end_of_word_suffix("</w>".into())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ")?;
    tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])));
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    Ok(tokenizer)
}
