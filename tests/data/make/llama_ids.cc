// The oracle of the GGUF tokenizer tests: token ids as llama.cpp gives them. Not part of the build.
//
// g++ -O2 -std=c++17 -I$LLAMA/include -I$LLAMA/ggml/include llama_ids.cc -o llama_ids
//     $BUILD/src/libllama.a $BUILD/ggml/src/libggml{,-cpu,-base}.a -lpthread -ldl -fopenmp
// usage: llama_ids MODEL FILE text|strings PARSE_SPECIAL >OUT
//   FILE is one text, or strings of u32 length and bytes. OUT: for each i32 count, i32 ids (count -1:
//   refused).
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(argv[1], params);
  FILE* in = std::fopen(argv[2], "rb");
  if (model == nullptr || in == nullptr) return 1;
  std::string all(1 << 26, '\0');
  all.resize(std::fread(all.data(), 1, all.size(), in));
  std::vector<std::string> strings;
  if (std::strcmp(argv[3], "text") == 0) {
    strings.push_back(all);
  } else {
    for (size_t pos = 0; pos < all.size();) {
      uint32_t bytes = 0;
      std::memcpy(&bytes, &all[pos], 4);
      strings.push_back(all.substr(pos + 4, bytes));
      pos += 4 + bytes;
    }
  }
  const llama_vocab* vocab = llama_model_get_vocab(model);
  for (const std::string& text : strings) {
    std::vector<llama_token> ids(text.size() * 4 + 16);
    int32_t count = -1;
    try {
      count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), ids.data(),
                             static_cast<int32_t>(ids.size()), false, std::atoi(argv[4]) != 0);
    } catch (const std::exception&) {
    }
    std::fwrite(&count, 4, 1, stdout);
    if (count > 0) std::fwrite(ids.data(), 4, count, stdout);
  }
}
