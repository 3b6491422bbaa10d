"""How foghorn comes to be: text, tokenizer, model, dictionary, cards. See README.md beside this."""
