/* SoftHSM, with what hardware has and it has not: after three wrong PINs the token is locked. Each
   of them is a byte in the file that LOCKING_FILE names, so that it lasts beyond the process. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { C_LOGIN = 18, CKR_OK = 0, CKR_PIN_INCORRECT = 0xA0, CKR_PIN_LOCKED = 0xA4 };

/* CK_FUNCTION_LIST of PKCS #11 2.40 */
struct list {
	unsigned char version[2];
	unsigned long (*call[68])();
};

static struct list ours, *softhsm;

static unsigned long login(unsigned long session, unsigned long user, void *pin, unsigned long length)
{
	FILE *wrong = fopen(getenv("LOCKING_FILE"), "a+");
	unsigned long result = CKR_PIN_LOCKED;

	fseek(wrong, 0, SEEK_END);
	if (ftell(wrong) < 3)
		result = softhsm->call[C_LOGIN](session, user, pin, length);
	if (result == CKR_PIN_INCORRECT)
		fputc('x', wrong);
	fclose(wrong);
	return result;
}

unsigned long C_GetFunctionList(struct list **list)
{
	void *module = dlopen(SOFTHSM, RTLD_NOW);
	unsigned long (*get)(struct list **) = (unsigned long (*)(struct list **))dlsym(module, "C_GetFunctionList");

	if (get(&softhsm) != CKR_OK)
		return 5; /* CKR_GENERAL_ERROR */
	ours = *softhsm;
	ours.call[C_LOGIN] = (unsigned long (*)())login;
	*list = &ours;
	return CKR_OK;
}
