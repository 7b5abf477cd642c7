//! The tokenizer of CLIP. It maps a text to token numbers, with the files of a model folder and the
//! `tokenizers` crate.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// The pattern of CLIP's words: contractions, runs of letters, single digits, runs of anything
/// else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Special tokens, which a text may contain literally.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

/// Token numbers of a text, without begin, end and padding. `folder` holds `tokenizer.json`, or
/// `vocab.json` and `merges.txt`.
pub fn tokenize(folder: &Path, text: &str) -> Result<Vec<u32>> {
    let [whole, vocabulary, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(|f| folder.join(f));
    let refuse = |path: &Path, reason: String| Error::Weights { path: path.into(), reason };
    if whole.exists() {
        let tokens = without_panic(|| {
            let mut tokenizer = Tokenizer::from_file(&whole)?;
            // The caller pads and truncates to the length that the text encoder takes.
            tokenizer.with_padding(None).with_truncation(None)?;
            numbers(&tokenizer, text)
        });
        return tokens.map_err(|e| refuse(&whole, format!("it can't be used: {e}; download it again")));
    }
    if !vocabulary.exists() || !merges.exists() {
        let reason =
            "a prompt needs tokenizer.json, or vocab.json and merges.txt, here; only the empty prompt does without";
        return Err(refuse(folder, reason.into()));
    }
    let [vocabulary, merges] = [vocabulary, merges].map(|p| p.to_string_lossy().into_owned());
    let tokens = without_panic(|| numbers(&clip(&vocabulary, &merges)?, text));
    tokens.map_err(|e| refuse(folder, format!("vocab.json and merges.txt can't be used: {e}; download them again")))
}

fn numbers(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
    Ok(tokenizer.encode(text, false)?.get_ids().to_vec())
}

/// Runs `f` and turns a panic into an error, without printing it. Damaged files make the crate
/// panic.
fn without_panic<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                print(panic)
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(false);
    result.unwrap_or_else(|_| Err("its parts contradict each other".into()))
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
    // A special token that is not in the vocabulary would get a new number, which the text encoder
    // does not have.
    let known: Vec<&str> = SPECIAL.into_iter().filter(|token| tokenizer.token_to_id(token).is_some()).collect();
    tokenizer.add_special_tokens(&known.into_iter().map(|t| AddedToken::from(t, true)).collect::<Vec<_>>());
    Ok(tokenizer)
}
