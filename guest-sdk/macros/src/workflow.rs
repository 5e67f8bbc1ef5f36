//! `#[workflow]`: the function unchanged, and a type of its name that implements `Workflow`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, FnArg, ItemFn, LitStr, Result, ReturnType, Token, Type};

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let arguments = Arguments::parse(arguments)?;
    let function: ItemFn = syn::parse2(item)
        .map_err(|error| Error::new(error.span(), "`#[workflow]` stands on an `async fn`"))?;
    let input = input_of(&function)?;
    let output = output_of(&function)?;

    let (vis, ident) = (&function.vis, &function.sig.ident);
    let name = arguments.name.unwrap_or_else(|| LitStr::new(&plain(ident), ident.span()));
    let (signals, queries) = (arguments.signals, arguments.queries);
    let (input, call) = match input {
        Some(input) => (quote!(#input), quote!(#ident(input))),
        None => (quote!(()), quote!(#ident())),
    };
    // The argument of a workflow without one would be an unused `()`.
    let parameter = format_ident!("{}", if function.sig.inputs.is_empty() { "_input" } else { "input" });
    let doc = format!("The workflow [`{ident}`](fn@{ident}) as a type.");
    Ok(quote! {
        #function

        #[doc = #doc]
        #[allow(non_camel_case_types, dead_code)]
        #vis struct #ident {}

        impl ::backstitch_sdk::Workflow for #ident {
            const NAME: &'static str = #name;
            const SIGNALS: &'static [&'static str] = &[#(#signals),*];
            const QUERIES: &'static [&'static str] = &[#(#queries),*];
            type Input = #input;
            type Output = <#output as ::backstitch_sdk::WorkflowResult>::Output;

            async fn run(#parameter: Self::Input) -> ::backstitch_sdk::Result<Self::Output> {
                ::backstitch_sdk::WorkflowResult::into_result(#call.await)
            }
        }
    })
}

/// The name without the `r#` of a raw identifier.
pub(crate) fn plain(ident: &syn::Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
}

#[derive(Default)]
struct Arguments {
    name: Option<LitStr>,
    signals: Vec<LitStr>,
    queries: Vec<LitStr>,
}

impl Arguments {
    fn parse(tokens: TokenStream) -> Result<Self> {
        let mut arguments = Self::default();
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("name") {
                arguments.name = Some(name_of(&meta.value()?.parse()?)?);
            } else if meta.path.is_ident("signals") {
                arguments.signals = names(&meta)?;
            } else if meta.path.is_ident("queries") {
                arguments.queries = names(&meta)?;
            } else {
                return Err(meta.error("expected `name = \"…\"`, `signals(\"…\", …)` or `queries(\"…\", …)`"));
            }
            Ok(())
        });
        parser.parse2(tokens)?;
        Ok(arguments)
    }
}

/// Refuses the empty name: nobody could start it.
pub(crate) fn name_of(name: &LitStr) -> Result<LitStr> {
    if name.value().is_empty() {
        return Err(Error::new(name.span(), "a name has at least one character"));
    }
    Ok(name.clone())
}

fn names(meta: &syn::meta::ParseNestedMeta<'_>) -> Result<Vec<LitStr>> {
    let content;
    syn::parenthesized!(content in meta.input);
    Ok(Punctuated::<LitStr, Token![,]>::parse_terminated(&content)?.into_iter().collect())
}

fn input_of(function: &ItemFn) -> Result<Option<&Type>> {
    let signature = &function.sig;
    let name = &signature.ident;
    if signature.asyncness.is_none() {
        let message = format!("a workflow is an `async fn`: write `async fn {name}`");
        return Err(Error::new_spanned(signature.fn_token, message));
    }
    if !signature.generics.params.is_empty() {
        let message = "a workflow cannot be generic: it is started by its name alone";
        return Err(Error::new_spanned(&signature.generics, message));
    }
    let mut inputs = signature.inputs.iter();
    let input = match inputs.next() {
        None => return Ok(None),
        Some(FnArg::Receiver(receiver)) => {
            return Err(Error::new_spanned(receiver, "a workflow is a free function: it has no `self`"));
        }
        Some(FnArg::Typed(input)) => &*input.ty,
    };
    if let Some(second) = inputs.next() {
        let message =
            "a workflow takes at most one argument, its input: put several values in a struct or a tuple";
        return Err(Error::new_spanned(second, message));
    }
    if let Type::Reference(reference) = input {
        return Err(Error::new_spanned(reference, "a workflow owns its input: take it by value"));
    }
    Ok(Some(input))
}

fn output_of(function: &ItemFn) -> Result<&Type> {
    match &function.sig.output {
        ReturnType::Type(_, output) => Ok(output),
        ReturnType::Default => {
            let message = "a workflow returns `backstitch_sdk::Result<T>`: add `-> Result<()>`";
            Err(Error::new_spanned(&function.sig.ident, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: TokenStream, item: TokenStream) -> String {
        expand(arguments, item).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_refusal_says_what_to_write_instead() {
        for (item, expected) in [
            (
                quote!(
                    fn order(o: Order) -> Result<()> {}
                ),
                "write `async fn order`",
            ),
            (
                quote!(
                    async fn order<T>(o: T) -> Result<()> {}
                ),
                "cannot be generic",
            ),
            (
                quote!(
                    async fn order(a: u8, b: u8) -> Result<()> {}
                ),
                "at most one argument",
            ),
            (
                quote!(
                    async fn order(&self) -> Result<()> {}
                ),
                "free function",
            ),
            (
                quote!(
                    async fn order(o: &Order) -> Result<()> {}
                ),
                "take it by value",
            ),
            (
                quote!(
                    async fn order(o: Order) {}
                ),
                "add `-> Result<()>`",
            ),
            (
                quote!(
                    struct Order;
                ),
                "stands on an `async fn`",
            ),
        ] {
            let message = refusal(TokenStream::new(), item.clone());
            assert!(message.contains(expected), "{item}: {message}");
        }
    }

    #[test]
    fn unknown_arguments_are_refused() {
        let item = quote!(
            async fn order(o: Order) -> Result<()> {}
        );
        assert!(refusal(quote!(nam = "x"), item.clone()).contains("expected `name"));
        assert!(refusal(quote!(name = ""), item).contains("at least one character"));
    }

    #[test]
    fn the_name_is_the_functions_unless_given() -> Result<()> {
        let item = quote!(
            async fn r#loop() -> Result<()> {}
        );
        assert!(expand(TokenStream::new(), item.clone())?.to_string().contains(r#"= "loop""#));
        assert!(expand(quote!(name = "Loop"), item)?.to_string().contains(r#"= "Loop""#));
        Ok(())
    }
}
